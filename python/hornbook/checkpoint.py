"""The state of a training run, whole or not at all.

A checkpoint is a folder, ``checkpoints/step-000500``:

    model.safetensors, config.json   the model, as `GPT.save_pretrained` writes it
    tokenizer.json                   the tokenizer, so that the folder is a complete model directory
    generation_config.json           the token that begins and ends a document
    optimizer.safetensors            every optimizer's tensors, by parameter
    state.json                       step, data cursor, random generators, training configuration, versions

It is written beside, flushed to the disk and renamed; only then does the text file ``checkpoints/latest`` name it.
"""

from __future__ import annotations

import base64
import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import files
from .errors import CheckpointError
from .model import GPT

FORMAT = 1


def save(
    run: Path,
    step: int,
    model: GPT,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    *,
    tokenizer: Any = None,
    keep: int = 2,
) -> Path:
    """Write ``run/checkpoints/step-NNNNNN``, point ``latest`` to it, and remove all but the ``keep`` newest."""
    folder = run / "checkpoints"
    path = folder / f"step-{step:06d}"

    def fill(directory: Path) -> None:
        model.save_pretrained(directory)
        if tokenizer is not None:
            tokenizer.save(directory)
            ends = {"bos_token_id": tokenizer.eot_id, "eos_token_id": tokenizer.eot_id}
            files.write_json(directory / "generation_config.json", ends)
        files.write_tensors(directory / "optimizer.safetensors", _tensors(model, optimizers))
        files.write_json(
            directory / "state.json",
            {
                "format": FORMAT,
                "step": step,
                "versions": {name: importlib.metadata.version(name) for name in ("hornbook", "torch")},
                "random": [random_state()],  # one entry a rank
                **state,
            },
        )

    files.write_directory(path, fill)
    files.write(folder / "latest", path.name + "\n")
    for old in sorted(folder.glob("step-*"), key=lambda p: (len(p.name), p.name))[:-keep]:  # as numbers
        if old != path:
            shutil.rmtree(old, ignore_errors=True)
    for scrap in folder.glob(".step-*"):  # what a killed run left half written
        shutil.rmtree(scrap, ignore_errors=True)
    return path


def latest(run: Path) -> Path | None:
    """The newest checkpoint of a run, or None if it has none yet."""
    pointer = run / "checkpoints" / "latest"
    if not pointer.is_file():
        return None
    path = run / "checkpoints" / pointer.read_text(encoding="utf-8").strip()
    if path == pointer.parent or not path.is_dir():
        raise CheckpointError(f"{pointer} names {path.name}, which is not there; write an existing step-* into it")
    return path


def load(path: Path, model: GPT, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Put a checkpoint into a model, its optimizers and the random generators.

    Returns:
        What state.json holds.

    Raises:
        CheckpointError: if a file is missing, truncated, or from another format, with nothing changed.
    """
    state = read_state(path)
    weights, tensors = (
        files.read_tensors(path / "model.safetensors"),
        files.read_tensors(path / "optimizer.safetensors"),
    )
    expected = _names(model, optimizers)
    if foreign := sorted(key for key in tensors if key.rpartition(".")[0] not in expected):
        raise CheckpointError(f"{path}: optimizer.safetensors has {foreign[0]!r}, which this run's optimizers do not")
    model.load_tensors(weights, str(path))
    for name, (optimizer, parameter) in expected.items():
        mine = {key.rpartition(".")[2]: t for key, t in tensors.items() if key.rpartition(".")[0] == name}
        # "step" counts on the CPU; the rest lives where its parameter does.
        optimizer.state[parameter] = {
            key: t.clone() if key == "step" and not parameter.is_cuda else t.to(parameter.device, copy=True)
            for key, t in mine.items()
        }
    set_random_state(state["random"][0])
    return state


def read_state(path: Path) -> dict[str, Any]:
    """state.json, checked for its format."""
    state = files.read_json(path / "state.json")
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: a checkpoint of format {state.get('format')!r}; hornbook "
            f"{importlib.metadata.version('hornbook')} reads format {FORMAT}"
        )
    if missing := [key for key in ("step", "cursor", "data", "config", "random") if key not in state]:
        raise CheckpointError(f"{path}: state.json lacks {missing[0]!r}; go on from another checkpoint")
    return state


def random_state() -> dict[str, str]:
    """PyTorch's generators, as text. Data has its own, which the cursor covers."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return {device: base64.b64encode(t.numpy().tobytes()).decode() for device, t in state.items()}


def set_random_state(state: dict[str, str]) -> None:
    """Put the generators back to what `random_state` read."""
    tensors = {d: torch.frombuffer(bytearray(base64.b64decode(t)), dtype=torch.uint8) for d, t in state.items()}
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def _names(model: GPT, optimizers: list[torch.optim.Optimizer]) -> dict[str, tuple[torch.optim.Optimizer, Tensor]]:
    """ "0.blocks.1.attn.q_proj.weight" → the optimizer numbered 0 and that parameter of it."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        f"{i}.{names[p]}": (optimizer, p)
        for i, optimizer in enumerate(optimizers)
        for group in optimizer.param_groups
        for p in group["params"]
    }


def _tensors(model: GPT, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, (optimizer, parameter) in _names(model, optimizers).items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }
