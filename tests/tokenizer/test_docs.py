"""docs/tokenizer.md is run: what its code says is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tokenizer.md"


def test_the_code_of_the_page_runs():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    names: dict[str, object] = {}
    for code in blocks:
        if "to_huggingface" in code:
            pytest.importorskip("transformers")
        exec(compile(code, str(PAGE), "exec"), names)
    assert len(blocks) > 3


def test_the_page_names_every_option():
    from hornbook.tokenizer.bpe import TIES

    page = PAGE.read_text("utf-8")
    for word in (*(f'`"{tie}"`' for tie in TIES), "min_frequency", "max_token_length", "max_tokens", "dropout", "seed"):
        assert word in page
    for name in ("count_tokens", "encode_batch_to_numpy", "encode_stream_to_numpy"):
        assert f"tok.{name}(" in page
