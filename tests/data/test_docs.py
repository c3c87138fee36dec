"""docs/data.md is run: what its code says is so."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import hornbook as hb
from hornbook.data import prepare
from hornbook.prepare import Steps

PAGE = Path(__file__).parents[2] / "docs" / "data.md"


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    names: dict[str, object] = {}
    for code in blocks:
        exec(compile(code, str(PAGE), "exec"), names)
    assert len(blocks) > 3


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
