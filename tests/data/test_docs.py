"""docs/data.md says all there is to say; its code runs in tests/test_docs.py."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import hornbook as hb
from hornbook.data import prepare
from hornbook.prepare import Steps

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_page_names_every_step():
    page = PAGE.read_text("utf-8")
    for step in dataclasses.fields(Steps):
        option = "--" + step.name.replace("_", "-")
        assert option in page or option.replace("--", "--no-") in page, option


def test_the_page_names_every_key_of_the_manifest(tmp_path: Path):
    texts = [f"text {i}" for i in range(50)]
    prepare(texts, hb.Tokenizer.train(texts, vocab_size=260), tmp_path / "s")
    for key in json.loads((tmp_path / "s" / "manifest.json").read_text()):
        assert key == "format" or f"`{key}`" in PAGE.read_text("utf-8") or f'"{key}"' in PAGE.read_text("utf-8"), key
