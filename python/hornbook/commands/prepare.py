"""``hornbook prepare``."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from .. import config, corpora
from ..documents import Files, exists
from ..errors import ConfigError
from ..prepare import SHARD_TOKENS, Steps, run
from .common import Encoding, Field, Sources, check_place, meter, note, open_tokenizer, opened, parse_size

LEAST_SHARD_TOKENS = 1000


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Clean text and encode it into token shards for training.

    An interrupted command goes on where it was when it is given again. One that was done finds its shards, looks
    whether they are whole, and does nothing. Shards of another command are replaced once the new ones are whole.
    """

    source: Sources
    """text, .jsonl, .parquet or .zip files, packed as .gz or .zst or not, folders of them, or a corpus's name"""
    tokenizer: str
    """a folder, a file, or gpt2, cl100k_base, o200k_base"""
    out: Path
    """the folder to write the shards to; until they are whole it is called OUT.partial"""
    field: Field = "text"
    heldout: float = 0.05
    """the share of documents to keep for measuring; a corpus that has its own held-out part uses that"""
    encoding: Encoding = None
    size: str | None = None
    """of a corpus: as many of its first documents as so many bytes hold, such as 5MB"""
    seed: int = 0
    """of a generated corpus"""
    steps: OmitArgPrefixes[Steps] = dataclasses.field(default_factory=Steps)
    shard_tokens: int = SHARD_TOKENS
    """how many tokens a file may hold, 1,000 at least"""
    threads: int | None = None
    """for encoding; all cores if not given"""
    fresh: bool = False
    """begin anew, whatever is there"""

    def run(self) -> None:
        check_place(self.out, folder=True)
        if self.shard_tokens < LEAST_SHARD_TOKENS:
            raise ConfigError(
                f"--shard-tokens is how many tokens a file may hold: {self.shard_tokens:,} would make two files of "
                f"nearly every document; give {LEAST_SHARD_TOKENS:,} or more"
            )
        texts: Any
        kept_back: Any = self.heldout
        total = about = None
        known = len(self.source) == 1 and not exists(self.source[0])
        corpus = corpora.CORPORA.get(self.source[0]) if known else None
        if corpus is not None and (corpus.file is None or self.size is not None):
            size = None if self.size is None else parse_size(self.size)
            texts, kept_back, about = corpus.parted(self.heldout, size, seed=self.seed)
            total = size or corpus.size or corpus.measure()
        elif self.size is not None:
            raise ConfigError("--size is for the corpora of `hornbook corpus list`; a file is read whole")
        else:
            texts = opened(self.source, self.field, encoding=self.encoding)
        with meter() as progress:

            def tell(documents: int, done: int) -> None:
                if isinstance(texts, Files):
                    progress("encode", texts.bytes_read, texts.total_bytes)
                else:
                    progress("encode", min(done, total or done), total)

            manifest = run(
                texts, open_tokenizer(self.tokenizer), self.out, steps=self.steps, heldout=kept_back, about=about,
                shard_tokens=self.shard_tokens, num_threads=self.threads, fresh=self.fresh, progress=tell,
                settings=config.to_toml(dataclasses.replace(self, fresh=False)),
            )  # fmt: skip
        for row in manifest["steps"]:
            if row["step"] == "read" or row["dropped"] or row["changed"]:
                note(describe(row))
        for name, split in manifest["splits"].items():
            counts = f"{split['documents']:,} documents, {split['bytes']:,} bytes, {split['tokens']:,} tokens"
            note(f"{self.out}: {name}: {counts}")


def describe(row: dict[str, Any]) -> str:
    """A step's counts in words."""
    parts = [f"{row['kept']:,} documents, {row['bytes']:,} bytes"]
    parts += [f"{row[what]:,} {what}" for what in ("dropped", "changed") if row[what]]
    return f"{row['step']}: {', '.join(parts)}"
