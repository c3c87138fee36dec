"""What each command of ``hornbook`` does.

A function's parameters are the command's options and its docstring their help. Modules that need torch are imported
inside, so that the commands which do not need it answer at once. Results go to stdout, all else to stderr.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional, arg

from .benchmarks.commands import bench_kernels, bench_model
from .errors import ConfigError, DataError

if TYPE_CHECKING:
    from .tokenizer import TokenizerLike

Kernels = Annotated[
    str | None, arg(metavar="WHICH", help="implementations: auto, reference, torch, fused, or OP=WHICH,...")
]
Sources = Positional[Annotated[list[str], arg(metavar="SOURCE...")]]


def demo(
    minutes: float = 2.0,
    out: Path = Path("runs/demo"),
    seed: int = 0,
    steps: int | None = None,
    stories: int = 3,
    kernels: Kernels = None,
) -> None:
    """Make a corpus, train a tokenizer and a small GPT on it, and let it write stories.

    Args:
        minutes: of training; a speed probe turns them into steps.
        out: where the run is kept; if there is one already, a number is added to the name.
        seed: of everything that is drawn.
        steps: train so many steps instead; the same seed and steps give the same model.
        stories: how many to write at the end.
    """
    _use(kernels)
    from .demo import run

    run(minutes, out=out, seed=seed, steps=steps, stories=stories)


def corpus_list() -> None:
    """The corpora that Hornbook knows."""
    from .corpora import CORPORA

    for corpus in CORPORA.values():
        print(f"{corpus.name:12} {corpus.about} ({corpus.licence})")


def corpus_show(name: Positional[Annotated[str, arg(metavar="CORPUS")]], count: int = 3, seed: int = 0) -> None:
    """Print the beginning of a corpus.

    Args:
        name: a corpus of ``hornbook corpus list``, a file or a folder.
        count: documents to print.
        seed: of a generated corpus.
    """
    from itertools import islice

    from .corpora import CORPORA, documents, fables

    if name in CORPORA and not Path(name).exists():
        texts = (story.text for story in fables.stories(seed=seed))
    else:
        texts = documents(name)
    print("\n\n".join(islice(texts, max(0, count))))


def corpus_write(
    name: Positional[Annotated[str, arg(metavar="CORPUS")]],
    *,
    out: Path,
    size: str | None = None,
    seed: int = 0,
    split: Literal["train", "heldout"] = "train",
) -> None:
    """Write a corpus as one text file, with a line <|endoftext|> between documents.

    Args:
        name: a corpus of ``hornbook corpus list``.
        out: the file.
        size: such as 500KB, 5MB, 1GB; the corpus's own if not given.
        seed: of a generated corpus.
        split: which part.
    """
    from .corpora import write

    size_written = write(name, out, None if size is None else parse_size(size), seed=seed, split=split)
    _note(f"{out}: {size_written:,} bytes")


def tokenizer_train(
    source: Sources,
    *,
    out: Path,
    vocab_size: int = 8192,
    pattern: str = "cl100k",
    special_tokens: tuple[str, ...] = ("<|endoftext|>",),
    threads: int | None = None,
) -> None:
    """Train a byte-level BPE tokenizer.

    Args:
        source: text files, folders, or a corpus's name.
        out: the folder to write tokenizer.json to.
        vocab_size: tokens, the 256 bytes and the special ones included.
        pattern: how text is cut before merging: gpt2, cl100k, o200k, none, or a regular expression.
        special_tokens: tokens with a meaning of their own.
        threads: how many; all cores if not given.
    """
    import time

    from .corpora import files_or_documents
    from .tokenizer import Tokenizer

    texts = files_or_documents(_named(source))
    started = time.monotonic()
    with _spinner() as progress:
        tok = Tokenizer.train(
            texts, vocab_size=vocab_size, pattern=None if pattern == "none" else pattern,
            special_tokens=special_tokens, num_threads=threads, progress=progress,
        )  # fmt: skip
    tok.save(out)
    _note(f"{out}: {tok.vocab_size:,} tokens, trained in {time.monotonic() - started:.1f} s")


def tokenizer_encode(text: Positional[str] = "-", *, tokenizer: str, allow_special: bool = False) -> None:
    """Print the token ids of a text.

    Args:
        text: the text, or - to read it from standard input.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
        allow_special: read special tokens in the text as such instead of as text.
    """
    tok = open_tokenizer(tokenizer)
    text = sys.stdin.read() if text == "-" else text
    print(*(tok.encode(text, allowed_special="all") if allow_special else tok.encode_ordinary(text)))


def tokenizer_decode(ids: Positional[Annotated[list[str], arg(metavar="ID...")]], *, tokenizer: str) -> None:
    """Print the text of token ids.

    Args:
        ids: numbers, or - to read them from standard input.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
    """
    if not ids:
        raise ConfigError("which ids? Give numbers, or - to read them from standard input")
    words = re.split(r"[\s,]+", sys.stdin.read().strip()) if ids == ["-"] else ids
    try:
        numbers = [int(word) for word in words if word]
    except ValueError as error:
        raise DataError(f"token ids are whole numbers: {error}") from None
    sys.stdout.write(open_tokenizer(tokenizer).decode(numbers) + "\n")


def tokenizer_show(text: Positional[str] = "-", *, tokenizer: str) -> None:
    """Print a text with its tokens coloured.

    Args:
        text: the text, or - to read it from standard input.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
    """
    from rich.console import Console

    from .tokenizer import show

    Console().print(show(sys.stdin.read() if text == "-" else text, open_tokenizer(tokenizer)), soft_wrap=True)


def prepare(
    source: Sources,
    *,
    tokenizer: str,
    out: Path,
    heldout: float = 0.05,
    size: str | None = None,
    seed: int = 0,
) -> None:
    """Encode text into token shards for training.

    Args:
        source: text files, folders, or a corpus's name.
        tokenizer: a folder, a file, or gpt2, cl100k_base, o200k_base.
        out: the folder to write the shards to.
        heldout: the share of documents to keep for measuring; a corpus that has its own held-out part uses that.
        size: of a generated corpus, such as 5MB.
        seed: of a generated corpus.
    """
    from . import corpora
    from .data import prepare as prepare_

    texts: Any = _named(source)
    kept_back: Any = heldout
    if isinstance(texts, str) and texts == "fables" and not Path(texts).exists():
        amount = corpora.CORPORA[texts].size if size is None else parse_size(size)
        kept_back = [
            s.text for s in corpora.fables.generate(max(4000, round(amount * heldout)), seed=seed, split="heldout")
        ]
        texts = (s.text for s in corpora.fables.generate(amount, seed=seed))
    elif size is not None:
        raise ConfigError("--size is for generated corpora; a file is read whole")
    with _spinner() as progress:
        data = prepare_(
            texts, open_tokenizer(tokenizer), out, heldout=kept_back,
            progress=lambda n, size: progress("encoding", size, None),
        )  # fmt: skip
    for name, split in (("train", data.train), ("heldout", data.heldout)):
        _note(f"{out}: {name}: {split.documents:,} documents, {split.bytes:,} bytes, {len(split):,} tokens")


def train(argv: list[str]) -> None:
    """``hornbook train``."""
    import torch

    from .data import TokenData
    from .model import GPT, GPTConfig
    from .train import Trainer

    options = train_options(argv)
    _use(options.kernels)
    data = TokenData(options.data)
    torch.manual_seed(options.train.seed)
    vocab_size = data.tokenizer.vocab_size
    if options.model.vocab_size not in (vocab_size, GPTConfig.preset(options.preset).vocab_size):
        raise ConfigError(f"vocab_size is that of the data's tokenizer, {vocab_size}: leave out --model.vocab-size")
    model = GPT(replace(options.model, vocab_size=vocab_size))
    trainer = Trainer(model, data, options.train, out=options.out, resume=options.resume)
    _note(f"{model.parameter_count():,} parameters, {len(data.train):,} training tokens")
    try:
        last = trainer.fit()
    except KeyboardInterrupt:
        saved = "not saved" if trainer.saved is None else f"saved at step {trainer.saved}"
        _note(f"stopped, {saved}, in {options.out}; the same command with --resume goes on")
        raise
    bits = last.get("heldout_bits_per_byte")
    _note(
        f"{options.out}: {trainer.step} steps"
        + ("" if bits is None else f", {bits:.4f} bits per byte of held-out text")
    )


def train_options(argv: list[str]) -> Any:
    """What the options of ``hornbook train`` say; those of the model start from the preset's."""
    from .model import PRESETS, GPTConfig
    from .train import TrainConfig

    preset = re.search(r"--preset[= ](\S+)", " ".join(argv))
    shape = GPTConfig.preset(preset[1] if preset and preset[1] in PRESETS else "nano")
    options = make_dataclass(
        "TrainOptions",
        [
            ("data", Annotated[Path, arg(help="the folder that `hornbook prepare` wrote")]),
            ("out", Annotated[Path, arg(help="the run's folder")]),
            (
                "preset",
                Annotated[Literal[tuple(PRESETS)], arg(help="the model's shape; --model.* change it")],
                "nano",
            ),
            ("resume", Annotated[bool, arg(help="go on from the newest checkpoint in --out")], False),
            ("kernels", Kernels, None),
            ("train", tyro.conf.OmitArgPrefixes[TrainConfig], TrainConfig()),
            ("model", GPTConfig, shape),
        ],
    )
    about = "Train a GPT on token shards. The same command with --resume goes on after any end."
    return tyro.cli(options, prog="hornbook train", description=about, args=argv)


def sample(
    model: Positional[Path],
    *,
    prompt: str = "",
    tokenizer: str | None = None,
    max_new_tokens: int = 200,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    num_beams: int = 1,
    stop: tuple[str, ...] = (),
    seed: int | None = None,
    device: str = "auto",
    kernels: Kernels = None,
) -> None:
    """Continue a text with a trained model; the new text goes to stdout as it is written.

    Args:
        model: a run or a model directory.
        prompt: what to continue; empty for a new document.
        tokenizer: if the model directory has none.
        max_new_tokens: the most to write.
        temperature: 0 for the likeliest token each time, 1 for the model's own distribution.
        top_k: draw from the k likeliest tokens only; 0 for all.
        top_p: draw from the likeliest tokens whose probabilities sum to p.
        min_p: leave out tokens less than min_p times as likely as the likeliest.
        repetition_penalty: above 1 makes tokens that occurred less likely.
        num_beams: above 1, search for the likeliest text instead of drawing one.
        stop: texts that end the writing.
        seed: the same seed writes the same text.
        device: auto, cpu, cuda or mps.
    """
    _use(kernels)
    from . import device as device_
    from .interop import load
    from .sample import stream

    gpt, tok = load(model)
    gpt.to(device_.pick(device))
    if tokenizer is not None:
        tok = open_tokenizer(tokenizer)
    if tok is None:
        raise ConfigError(f"{model} has no tokenizer: name one with --tokenizer")
    how: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "num_beams": num_beams, "stop": stop, "seed": seed,
    }  # fmt: skip
    for piece in stream(gpt, tok, prompt, **how):
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()


def doctor() -> None:
    """Print what is installed here, what hardware there is, and which implementation each operation runs."""
    from .doctor import run

    run()


def open_tokenizer(name: str) -> TokenizerLike:
    """A tokenizer by its path, or by one of the names that tiktoken knows."""
    from .tokenizer import Tokenizer, load

    if Path(name).exists():
        return load(name)
    if name in ("gpt2", "cl100k_base", "o200k_base"):
        return Tokenizer.from_tiktoken(name)
    raise ConfigError(f"{name}: no such tokenizer; give a folder, a file, or gpt2, cl100k_base or o200k_base")


def _named(source: list[str]) -> str | list[Path]:
    """What the command line names as text: one name, or several paths."""
    if not source:
        raise ConfigError("which text? Give files, folders, or a corpus of `hornbook corpus list`")
    return source[0] if len(source) == 1 else [Path(s) for s in source]


def parse_size(text: str) -> int:
    """ "5MB" → 5,000,000 bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", text.strip().lower())
    if match is None:
        raise ConfigError(f"a size is a number of bytes such as 5000000, 500KB or 5MB, not {text!r}")
    return round(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2]])


def _use(kernels: str | None) -> None:
    if kernels is not None:
        from . import ops

        ops.use(kernels)


def _note(message: str) -> None:
    print(message, file=sys.stderr)


class _spinner:  # noqa: N801 (used like a function)
    """A line that shows how far a task of unknown length is, on a terminal only."""

    def __enter__(self) -> Callable[[str, int, int | None], None]:
        from rich.console import Console

        self._status = Console(stderr=True).status("") if sys.stderr.isatty() else None
        if self._status is not None:
            self._status.start()
        return self.show

    def __exit__(self, *exc: object) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, phase: str, done: int, total: int | None) -> None:
        if self._status is not None:
            self._status.update(f"{phase}: {done:,}" + (f" of {total:,}" if total else ""))


COMMANDS: dict[str, Callable[..., None] | dict[str, Callable[..., None]]] = {
    "demo": demo,
    "corpus": {"list": corpus_list, "show": corpus_show, "write": corpus_write},
    "tokenizer": {
        "train": tokenizer_train,
        "encode": tokenizer_encode,
        "decode": tokenizer_decode,
        "show": tokenizer_show,
    },
    "prepare": prepare,
    "train": train,
    "sample": sample,
    "doctor": doctor,
    "bench": {"kernels": bench_kernels, "model": bench_model},
}
