"""The benchmark of start times: what it runs, and that it notices what should not be loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hornbook.benchmarks import start
from hornbook.benchmarks.start import Start
from hornbook.cli import main
from hornbook.errors import HornbookError


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "start.json"
    main(["bench", "start", "--rounds", "1", "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    result = json.loads(lines[-1])
    assert result == json.loads(out.read_text("utf-8"))
    assert result["rows"][0]["name"] == "python -c pass", "the limit comes first"
    assert {row["name"]: row["goal"] for row in result["rows"] if row["goal"]} == {
        "hornbook --help": 0.5,
        "from hornbook import Tokenizer": 0.25,
    }
    for row in result["rows"]:
        assert row["loads"] == []
        assert 0 < row["best"] <= row["median"]
    assert any(line.startswith("hornbook --help ") for line in lines)


def test_what_it_cannot_pass(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A module that should not be there, a process that is too slow, and one that fails."""
    heavy = "import sys, types; sys.modules['torch'] = types.ModuleType('torch')"
    starts = (Start("heavy", ("-c", heavy), heavy, 60.0), Start("late", ("-c", "pass"), "pass", 0.0))
    monkeypatch.setattr(start, "STARTS", starts)
    with pytest.raises(SystemExit, match=r"what should be light is not: heavy$"):
        main(["bench", "start", "--rounds", "2"])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["verdict"] for row in rows] == ["loads torch", "missed"]

    monkeypatch.setattr(start, "STARTS", (Start("broken", ("-c", "1 / 0"), "1 / 0"),))
    with pytest.raises(HornbookError, match="ZeroDivisionError"):
        start.run(1, None)
