"""Options from a file: the same as from the command line, checked, and written back whole."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import hornbook as hb
import pytest
import torch
from hornbook.cli import main
from hornbook.commands import COMMANDS, find
from hornbook.commands.options import parse
from hornbook.errors import ConfigError
from hornbook.files import read_tensors

EVERY = {
    f"{name} {sub}".strip(): place
    for name, where in COMMANDS.items()
    for sub, place in (where if isinstance(where, dict) else {"": where}).items()
}
REQUIRED: dict[str, list[str]] = {
    "corpus show": ["fables"],
    "corpus write": ["fables", "--out", "a.txt"],
    "tokenizer train": ["a.txt", "b.txt", "--out", "tok", "--special-tokens", "<|x|>", '<|"y|>'],
    "tokenizer count": ["a.txt", "--out", "counts", "--pattern", r"\w+|'\s"],
    "tokenizer encode": ["--tokenizer", "gpt2"],
    "tokenizer decode": ["1", "2", "--tokenizer", "gpt2"],
    "tokenizer show": ["a text", "--tokenizer", "gpt2"],
    "tokenizer compare": ["gpt2"],
    "prepare": ["a.txt", "--tokenizer", "tok", "--out", "shards", "--heldout", "0.25"],
    "train": [
        "--data",
        "shards",
        "--out",
        "run",
        "--preset",
        "llama-tiny",
        "--model.n-layer",
        "2",
        "--betas",
        "0.8",
        "1",
    ],
    "sample": ["run", "--stop", "a", "b", "--temperature", "1e-05"],
}


@pytest.mark.parametrize("name", EVERY)
def test_a_printed_configuration_is_the_same_command(name: str, tmp_path: Path, capsys) -> None:
    kind, argv = find(EVERY[name]), REQUIRED.get(name, [])
    assert dataclasses.is_dataclass(kind)
    wanted = parse(kind, argv, "hornbook")
    assert parse(kind, ["--print-config", *argv], "hornbook") is None
    file = tmp_path / "it.toml"
    file.write_text(capsys.readouterr().out, encoding="utf-8")
    assert parse(kind, ["--config", str(file)], "hornbook") == wanted
    assert wanted is not None
    # And with a value of another kind in place of each.
    for key, value in tomllib.loads(file.read_text()).items():
        if isinstance(value, dict):
            continue
        other = 5 if isinstance(value, list) else [[5]]
        file.write_text(f"{key} = {other!r}\n")
        with pytest.raises(ConfigError, match=f"it.toml: {key} should be "):
            parse(kind, ["--config", str(file)], "hornbook")


@pytest.mark.parametrize("name", EVERY)
def test_every_option_has_its_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit):
        parse(find(EVERY[name]), ["--help"], f"hornbook {name}")
    said = capsys.readouterr().out
    assert "--config FILE.toml" in " ".join(said.replace("│", " ").split())
    without = [f.name for f in dataclasses.fields(find(EVERY[name])) if f"--{f.name.replace('_', '-')}" not in said]
    positional = {"name", "source", "text", "ids", "tokenizers", "model", "train", "steps"}
    assert set(without) <= positional, without


def given(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    return ["--config", str(tmp_path / "run.toml")]


def sample(argv: list[str]) -> Any:
    return parse(find(EVERY["sample"]), argv, "hornbook sample")


def train(argv: list[str]) -> Any:
    return parse(find(EVERY["train"]), argv, "hornbook train")


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = given(tmp_path, 'model = "here"\ntop_k = 5\nstop = ["x"]\nseed = 3\n')
    options = sample([*file, "--top-k", "7"])
    assert (options.model, options.top_k, options.stop, options.seed) == (Path("here"), 7, ("x",), 3)
    assert sample(["there", *file]).model == Path("there")
    assert sample([f"--config={tmp_path / 'run.toml'}"]).top_k == 5


def test_a_shape_begins_from_its_preset(tmp_path: Path) -> None:
    where = 'data = "d"\nout = "o"\n'
    assert train(given(tmp_path, where)).model == hb.GPTConfig.preset("nano")
    mini = train(given(tmp_path, where + 'preset = "mini"\n[model]\nn_layer = 2\n[train]\nsteps = 5\n'))
    assert mini.model == hb.GPTConfig.preset("mini", n_layer=2)
    assert mini.train == hb.TrainConfig(steps=5)
    assert train(given(tmp_path, where + "[model]\nn_layer = 2\n")).model == hb.GPTConfig.preset("nano", n_layer=2)
    assert train([*given(tmp_path, where), "--preset", "mini", "--preset=gpt2"]).model == hb.GPTConfig()
    both = train([*given(tmp_path, where + "[model]\nn_layer = 2\n"), "--preset", "nano", "--model.d-model", "64"])
    assert both.model == hb.GPTConfig.preset("nano", n_layer=2, d_model=64)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("top_q = 1\n", "run.toml: there is no setting 'top_q'; did you mean 'top_p'?"),
        ("max-new-tokens = 1\n", "did you mean 'max_new_tokens'?"),
        ('top_k = "many"\n', "run.toml: top_k should be of type int like 0, but is 'many'"),
        ("seed = 1.5\n", "run.toml: seed should be of type int | None, but is 1.5"),
        ("stop = [1]\n", "stop should be of type tuple[str, ...], but is [1]"),
        ("temperature = true\n", "temperature should be of type float"),
        ("top_k = \n", "run.toml: not valid TOML"),
        ("[model]\nn_layer = 2\n", "model should be of type Path"),
    ],
)
def test_files_that_do_not_fit(text: str, words: str, tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(["sample", "run", *given(tmp_path, text)])
    assert str(end.value.code).startswith("hornbook: ")
    assert words in str(end.value.code)
    assert "\n" not in str(end.value.code)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[train]\nsteps = 0\n", "run.toml [train]: steps must be at least 1, not 0"),
        ("[train]\nlearning_rat = 0\n", "run.toml [train]: there is no setting 'learning_rat'; did you mean"),
        ("[train]\nbetas = [0.9]\n", "betas should be of type tuple[float, float], but is [0.9]"),
        ('[train]\ndtype = "fp8"\n', "dtype should be one of 'fp32', 'bf16', but is 'fp8'"),
        ("[model]\nn_head = 7\n", "run.toml [model]: d_model (128) must be a multiple of n_head (7)"),
        ("[model]\nn_heads = 4\n", "did you mean 'n_head'?"),
        ("train = 5\n", "train should be of type TrainConfig"),
        ('preset = "nan"\n', "preset should be one of 'nano', 'mini', "),
    ],
)
def test_tables_that_do_not_fit(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        train(["--data", "d", "--out", "o", *given(tmp_path, text)])
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config"], "--config wants the name of a TOML file"),
        (["--config="], "--config wants"),
        (["--config", "a.toml", "--config", "b.toml"], "given twice: a.toml and b.toml"),
        (["--config", "nowhere.toml"], "nowhere.toml: no such file"),
    ],
)
def test_files_that_are_not_there(argv: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sample(["run", *argv])


def test_the_same_run_from_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("\n<|endoftext|>\n".join(f"fable {i} of the fox {i * i}" for i in range(60)))
    main(["tokenizer", "train", "text.txt", "--vocab-size", "280", "--out", "tok"])
    main(["prepare", "text.txt", "--tokenizer", "tok", "--out", "shards"])
    shape = ["--preset", "llama-tiny", "--model.n-layer", "1", "--model.d-model", "16", "--model.n-head", "2"]
    shape += ["--model.n-kv-head", "None", "--model.context-length", "32", "--model.dropout", "0.1"]
    how = ["--steps", "3", "--batch-size", "2", "--seed", "5", "--accumulate", "2", "--betas", "0.8", "0.9"]
    with hb.use_kernels():
        main(["train", "--data", "shards", "--out", "first", *shape, *how, "--kernels", "torch,gelu=reference"])
        written = Path("first/config.toml").read_text()
        assert 'kernels = "torch,gelu=reference"' in written
        assert 'data = "shards"' in written
    with hb.use_kernels():
        main(["train", "--config", "first/config.toml", "--out", "second"])
        assert Path("second/config.toml").read_text() == written
        main(["train", "--config", "first/config.toml", "--out", "third", "--seed", "6"])
    saved = [
        read_tensors(Path(run, "checkpoints/step-000003/model.safetensors")) for run in ("first", "second", "third")
    ]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    assert not torch.equal(saved[0]["embed.weight"], saved[2]["embed.weight"])
