"""Corpora by download. Each is pinned twice: by the commit in its URL and by its SHA-256."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DataError
from .corpus import Corpus, State
from .download import Remote, UnreachableError, fetch, local

SHAKESPEARE = Remote(
    "tinyshakespeare.txt",
    "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e"
    "/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    1_115_394,
)
MAKEMORE_NAMES = Remote(
    "names.txt",
    "https://raw.githubusercontent.com/karpathy/makemore/988aa59e4d8fefa526d06f3b453ad116258398d4/names.txt",
    "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    228_145,
)
OFFLINE = "fables, names and stdlib need no network"


def file_of(remote: Remote) -> Path:
    """Its file, downloaded if it is not here.

    Raises:
        DataError: as `download.fetch` does; without a network it says what to do.
    """
    try:
        return fetch(remote)
    except UnreachableError as error:
        raise DataError(
            f"{error}. Without a network, bring {remote.url} as {remote.name} into a folder that "
            f"HORNBOOK_DATA names, or take another corpus: {OFFLINE}"
        ) from None


def _state(remote: Remote) -> Callable[[], State]:
    def state() -> State:
        try:
            found = local(remote)
        except DataError as error:
            return State(False, str(error))
        return State(True, f"here: {found}") if found else State(False, "to be downloaded")

    return state


def _lines(remote: Remote) -> Iterator[str]:
    with open(file_of(remote), encoding="utf-8") as file:
        for line in file:
            yield line.rstrip("\n")


def _planned(name: str) -> Callable[[], Iterator[str]]:
    def read() -> Iterator[str]:
        raise DataError(
            f"{name} is planned, but not in this version, as its files are not pinned yet. Download them yourself and "
            "name them in place of the corpus: .txt, .jsonl and .parquet are read"
        )

    return read


DOWNLOADS = (
    Corpus(
        "shakespeare",
        "40,000 lines of Shakespeare, as char-rnn learns from; one document",
        "public domain",
        "github.com/karpathy/char-rnn",
        SHAKESPEARE.size,
        lambda: iter([file_of(SHAKESPEARE).read_text(encoding="utf-8")]),
        _state(SHAKESPEARE),
        file=lambda: file_of(SHAKESPEARE),
    ),
    Corpus(
        "makemore-names",
        "32,033 first names, as makemore learns from; a document is a name",
        "MIT",
        "github.com/karpathy/makemore",
        196_113,
        lambda: _lines(MAKEMORE_NAMES),
        _state(MAKEMORE_NAMES),
    ),
    Corpus(
        "tinystories",
        "two million short stories, written by GPT-3.5 and GPT-4",
        "CDLA-Sharing-1.0",
        "huggingface.co/datasets/roneneldan/TinyStories",
        None,
        _planned("tinystories"),
        lambda: State(False, "planned"),
    ),
    Corpus(
        "fineweb-edu",
        "pages of the web that a classifier takes for educational",
        "ODC-By 1.0",
        "huggingface.co/datasets/HuggingFaceFW/fineweb-edu",
        None,
        _planned("fineweb-edu"),
        lambda: State(False, "planned"),
    ),
)
