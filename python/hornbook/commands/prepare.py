"""``hornbook prepare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .common import Field, Sources, check_place, meter, note, open_tokenizer, opened, parse_size


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Encode text into token shards for training."""

    source: Sources
    """text, .jsonl or .parquet files, packed as .gz or .zst or not, folders of them, or a corpus's name"""
    tokenizer: str
    """a folder, a file, or gpt2, cl100k_base, o200k_base"""
    out: Path
    """the folder to write the shards to"""
    field: Field = "text"
    heldout: float = 0.05
    """the share of documents to keep for measuring; a corpus that has its own held-out part uses that"""
    size: str | None = None
    """of a generated corpus, such as 5MB"""
    seed: int = 0
    """of a generated corpus"""

    def run(self) -> None:
        from .. import corpora
        from ..data import prepare as prepare_
        from ..documents import Files

        check_place(self.out, folder=True)
        texts: Any
        kept_back: Any = self.heldout
        total: int | None = None
        if self.source == ["fables"] and not Path("fables").exists():
            total = corpora.CORPORA["fables"].size if self.size is None else parse_size(self.size)
            most = max(4000, round(total * self.heldout))
            kept_back = [s.text for s in corpora.fables.generate(most, seed=self.seed, split="heldout")]
            texts = (s.text for s in corpora.fables.generate(total, seed=self.seed))
        elif self.size is not None:
            raise ConfigError("--size is for generated corpora; a file is read whole")
        else:
            texts = opened(self.source, self.field)
        with meter() as progress:

            def tell(documents: int, done: int) -> None:
                if isinstance(texts, Files):
                    progress("encode", texts.bytes_read, texts.total_bytes)
                else:
                    progress("encode", min(done, total or done), total)

            data = prepare_(texts, open_tokenizer(self.tokenizer), self.out, heldout=kept_back, progress=tell)
        for name, split in (("train", data.train), ("heldout", data.heldout)):
            note(f"{self.out}: {name}: {split.documents:,} documents, {split.bytes:,} bytes, {len(split):,} tokens")
