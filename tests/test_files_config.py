"""Files that are whole or not there, and settings that come back as they were."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook import device, files
from hornbook.config import from_dict, read_toml, to_dict, to_toml
from hornbook.errors import CheckpointError, ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st


class StopError(Exception):
    pass


def refuse(*_: Any) -> None:
    raise StopError


# Files


def test_write(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write(path, "größer\n")
    assert path.read_bytes() == "größer\n".encode()
    files.write(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("existed", [True, False])
def test_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existed: bool) -> None:
    path = tmp_path / "a.txt"
    if existed:
        path.write_text("old")
    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(StopError):
        files.write(path, "new")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"] * existed


def fill(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "new").write_text("new")


def contents(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_write_directory(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where"
    files.write_directory(path, fill)
    assert contents(tmp_path) == {"some/where/deep/new": "new"}
    files.write_directory(path, lambda f: (f / "other").write_text("x") and None)  # replaced as a whole
    assert contents(tmp_path) == {"some/where/other": "x"}
    assert [p.name for p in path.parent.iterdir()] == ["where"]


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("moment", ["fill", "fsync", "first rename", "second rename", "interrupt"])
def test_write_directory_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, existed: bool
) -> None:
    path = tmp_path / "where"
    if existed:
        path.mkdir()
        (path / "old").write_text("old")
    replace = os.replace

    def stop_at(source: Path, target: Path) -> None:
        if moment == "first rename" or (moment == "second rename" and source.name.endswith(".tmp")):
            raise StopError
        replace(source, target)

    def fill_half(folder: Path) -> None:
        fill(folder)
        if moment == "fill":
            raise StopError
        if moment == "interrupt":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop_at)
    if moment == "fsync":
        monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises((StopError, KeyboardInterrupt)):
        files.write_directory(path, fill_half)
    assert contents(tmp_path) == ({"where/old": "old"} if existed else {})
    assert [p.name for p in tmp_path.iterdir()] == ["where"] * existed


def test_scrap_of_a_killed_write_does_not_come_along(tmp_path: Path) -> None:
    scrap = tmp_path / f".where.{os.getpid()}.tmp"
    scrap.mkdir()
    (scrap / "half").write_text("half")
    files.write_directory(tmp_path / "where", fill)
    assert contents(tmp_path) == {"where/deep/new": "new"}


def test_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"ä": [1, None]})
    assert path.read_text(encoding="utf-8").endswith("]\n}\n")
    assert "ä" in path.read_text(encoding="utf-8")
    assert files.read_json(path) == {"ä": [1, None]}
    for text, message in (("{", "cannot be read as JSON"), ("[1]", "expected a JSON object, found list")):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=f"a.json: {message}"):
            files.read_json(path)
    with pytest.raises(CheckpointError, match=r"b\.json: no such file"):
        files.read_json(tmp_path / "b.json")
    with pytest.raises(CheckpointError, match=tmp_path.name):
        files.read_json(tmp_path)


def test_tensors(tmp_path: Path) -> None:
    x = torch.arange(6.0).view(2, 3)
    tensors = {"turned": x.T, "part": x[:, 1], "half": x.bfloat16(), "count": torch.tensor(3), "none": torch.ones(0, 2)}
    files.write_tensors(tmp_path / "t", tensors | {"trained": torch.nn.Parameter(x)})
    again = files.read_tensors(tmp_path / "t")
    assert again.keys() == {*tensors, "trained"}
    for name, tensor in tensors.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)
    (tmp_path / "t").write_bytes((tmp_path / "t").read_bytes()[:-1])
    for path, message in ((tmp_path / "t", "not a whole safetensors file"), (tmp_path / "no", "no such file")):
        with pytest.raises(CheckpointError, match=f"{path.name}: {message}"):
            files.read_tensors(path)
    with pytest.raises(CheckpointError):
        files.read_tensors(tmp_path)


# Settings


@dataclass(frozen=True)
class Settings:
    text: str = "x"
    number: float = 0.5
    count: int = 3
    flag: bool = False
    pair: tuple[float, float] = (0.9, 0.95)
    words: tuple[str, ...] = ()
    table: dict[str, Any] | None = None
    maybe: float | None = None

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ConfigError("count must not be 13")


def text() -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
        ['"', '\\"', "'''", '"""', "\x7f", "\0\t\r\n\x1b", "\\u0041", "ä é 漢 🙂", "a = 1 # no", "[x]", "\u2028"]
    )


def number() -> st.SearchStrategy[float]:
    return st.floats(allow_nan=False) | st.sampled_from([1e-05, 1e16, 1e300, float("inf"), -float("inf"), -0.0])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.builds(
        Settings,
        text=text(),
        number=number(),
        count=st.integers().filter(lambda n: n != 13),
        flag=st.booleans(),
        pair=st.tuples(number(), number()),
        words=st.lists(text(), max_size=3).map(tuple),
        table=st.none() | st.dictionaries(text(), number() | text() | st.integers(), max_size=3),
        maybe=st.none() | number(),
    ),
)
def test_toml_round_trip(tmp_path_factory: pytest.TempPathFactory, value: Settings) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    files.write(path, to_toml({"first": value, "second": Settings()}))
    tables = read_toml(path)
    assert list(tables) == ["first", "second"]
    again = from_dict(Settings, tables["first"], "here")
    assert repr(again) == repr(value)  # tells 1 from 1.0 and 0.0 from -0.0
    assert from_dict(Settings, tables["second"], "here") == Settings()


def test_nan_comes_back() -> None:
    (table,) = tomllib.loads(to_toml({"a": Settings(number=float("nan"))})).values()
    assert repr(from_dict(Settings, table, "here").number) == "nan"


@pytest.mark.parametrize(
    "value",
    [
        hb.GPTConfig(),
        *(hb.GPTConfig.preset(n) for n in ("nano", "mini", "llama-tiny", "gpt2-xl")),
        hb.GPTConfig(norm_eps=1e-06, n_kv_head=4, qkv_bias=True, rope_theta=500000.0),
        hb.TrainConfig(),
        hb.TrainConfig(learning_rate=3e-05, betas=(0.8, 0.99), context_length=64, dtype="bf16", seed=2**40),
    ],
)
def test_real_settings_come_back(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml({"it": value}), encoding="utf-8")
    assert from_dict(type(value), read_toml(path)["it"], str(path)) == value
    files.write_json(tmp_path / "config.json", to_dict(value))
    assert from_dict(type(value), files.read_json(tmp_path / "config.json"), "config.json") == value
    # None is left out of TOML, so nothing but None may stand for it
    nones = [f.name for f in dataclasses.fields(value) if getattr(value, f.name) is None]
    assert all(f.default is None for f in dataclasses.fields(value) if f.name in nones)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"contu": 1}, r"run.toml: there is no setting 'contu'; did you mean 'count'\?"),
        ({"zzzzz": 1}, "run.toml: there is no setting 'zzzzz'; known: count, flag, maybe, "),
        ({"count": "3"}, "run.toml: count should be of type int like 3, but is '3'"),
        ({"count": 3.0}, "count should be of type int"),
        ({"count": True}, "count should be of type int"),
        ({"flag": 1}, "flag should be of type bool"),
        ({"number": "1"}, "number should be of type float"),
        ({"number": None}, "number should be of type float"),
        ({"number": False}, "number should be of type float"),
        ({"text": 5}, "text should be of type str"),
        ({"count": 13}, "run.toml: count must not be 13"),
        ([1], "run.toml: expected a table of settings, found list"),
    ],
)
def test_settings_that_do_not_fit(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        from_dict(Settings, values, "run.toml")
    assert "\n" not in str(raised.value)


def test_whole_numbers_are_numbers() -> None:
    assert from_dict(Settings, {"number": 2}, "here").number == 2


def test_toml_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    with pytest.raises(ConfigError, match=r"run\.toml: no such file"):
        read_toml(path)
    for content in (b"a = \n", b"a = 1\na = 2\n", b"a = '\xff'"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"run\.toml: not valid TOML"):
            read_toml(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path)


# Devices


def test_devices_and_number_formats() -> None:
    assert device.pick("cpu") == torch.device("cpu")
    assert device.pick().type in ("cuda", "mps", "cpu")
    assert device.dtype("bf16") == torch.bfloat16
    with pytest.raises(ConfigError, match="no number format 'bfloat16'; known: fp32, bf16, fp16"):
        device.dtype("bfloat16")
    for name in ("gpu", "cuda:99", "xpu"):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used here") as raised:
            device.pick(name)
        assert "\n" not in str(raised.value)
