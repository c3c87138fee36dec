"""The state of a training run, whole or not at all.

A checkpoint is a folder, ``checkpoints/step-000500``:

    model.safetensors, config.json   the model, as `GPT.save_pretrained` writes it
    tokenizer.json                   the tokenizer, so that the folder is a complete model directory
    generation_config.json           the token that begins and ends a document
    optimizer.safetensors            every optimizer's tensors, by parameter
    state.json                       step, data cursor, random generators, training configuration, versions, and what
                                     it ran on: device, threads, kernels
    SHA256SUMS                       of the files above: a flipped bit or a swapped file is noticed when they are read

It is written beside, flushed to the disk and renamed; only then does the text file ``checkpoints/latest`` name it.
"""

from __future__ import annotations

import base64
import binascii
import importlib.metadata
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import device as device_
from . import files, ops
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
                **surroundings(_device(model)),
                "random": [random_state(_device(model))],  # one entry a rank
                **state,
            },
        )
        files.write_sums(directory)

    files.write_directory(path, fill)
    files.write(folder / "latest", path.name + "\n")
    numbered = [p for p in folder.iterdir() if re.fullmatch(r"step-\d+", p.name)]  # not step-best, somebody's copy
    for old in sorted(numbered, key=lambda p: (len(p.name), p.name))[:-keep]:  # as numbers
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
    name = files.read_text(pointer).strip()
    path = run / "checkpoints" / name
    if not re.fullmatch(r"step-\d+", name) or not path.is_dir():
        raise CheckpointError(f"{pointer} names {name[:80]!r}, which is not there; write an existing step-* into it")
    return path


def load(path: Path, model: GPT, optimizers: list[torch.optim.Optimizer]) -> dict[str, Any]:
    """Put a checkpoint into a model, its optimizers and the random generators, on whichever device the model is now.

    Returns:
        What state.json holds.

    Raises:
        CheckpointError: if a file is missing, damaged, swapped, or from another format, with nothing changed.
    """
    files.check_sums(path)
    state = read_state(path)
    weights, tensors = (
        files.read_tensors(path / "model.safetensors"),
        files.read_tensors(path / "optimizer.safetensors"),
    )
    generators = _unpacked(path, state["random"])
    expected = _names(model, optimizers)
    if foreign := sorted(key for key in tensors if key.rpartition(".")[0] not in expected):
        raise CheckpointError(f"{path}: optimizer.safetensors has {foreign[0]!r}, which this run's optimizers do not")
    for key, t in tensors.items():
        if t.shape not in ((), expected[key.rpartition(".")[0]][1].shape):
            raise CheckpointError(
                f"{path}: optimizer.safetensors: {key!r} has shape {tuple(t.shape)}, not its parameter's"
            )
    try:
        device_.set_random_states(generators, _device(model))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: state.json: {error}") from None
    model.load_tensors(weights, str(path))
    for name, (optimizer, parameter) in expected.items():
        mine = {key.rpartition(".")[2]: t for key, t in tensors.items() if key.rpartition(".")[0] == name}
        counts_there = any(_counts_there(group) for group in optimizer.param_groups)
        optimizer.state[parameter] = {
            key: t.clone() if key == "step" and not counts_there else t.to(parameter.device, copy=True)
            for key, t in mine.items()
        }
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
    cursor = state["cursor"]
    counts = [state["step"], *(cursor.get(key) for key in ("epoch", "row"))] if isinstance(cursor, dict) else [None]
    if any(type(count) is not int or count < 0 for count in counts):
        raise CheckpointError(f"{path}: state.json: step and cursor are no counts; go on from another checkpoint")
    if not all(isinstance(state[key], dict) for key in ("data", "config")):
        raise CheckpointError(f"{path}: state.json: data and config are no tables; go on from another checkpoint")
    return state


def surroundings(device: torch.device) -> dict[str, Any]:
    """What decides, besides the state, the last bits of the steps to come: versions, device, threads, kernels."""
    return {
        "versions": {name: importlib.metadata.version(name) for name in ("hornbook", "torch")},
        "machine": device_.describe(device),
        "kernels": ops.kernels_in_use(),
    }


def differences(state: Mapping[str, Any], device: torch.device) -> list[str]:
    """How what a checkpoint was made with differs from what there is now, each in a few words.

    With a difference a run goes on all the same, but not with the same bits as if it had never stopped.

    Args:
        state: of `read_state`. What an older checkpoint does not say is taken to be as it is now.
    """
    before, now = _flat(state), _flat(surroundings(device))
    if not before.get("device") == now["device"] == "cpu":  # the processor's part is small, then
        before.pop("threads", None)
        before.pop("name", None)
    if before.get("device") != now["device"]:  # and all the rest follows from it
        before = {"device": before["device"]} if "device" in before else {}
    before.pop("hornbook", None)
    hint = {"threads": f" (OMP_NUM_THREADS={before.get('threads')} keeps them)"}
    return [
        f"{key} {before[key]}, now {now[key]}{hint.get(key, '')}"
        for key in now
        if key in before and before[key] != now[key]
    ]


def _flat(state: Mapping[str, Any]) -> dict[str, Any]:
    parts = (state.get("machine"), state.get("versions"), state.get("kernels"))
    return {key: value for part in parts if isinstance(part, Mapping) for key, value in part.items()}


def random_state(device: torch.device) -> dict[str, str]:
    """PyTorch's generators, as text. Data has its own, which the cursor covers."""
    states = device_.random_states(device)
    return {kind: base64.b64encode(t.numpy().tobytes()).decode() for kind, t in states.items()}


def _unpacked(path: Path, random: Any) -> dict[str, Tensor]:
    """What `random_state` wrote, of the first rank."""
    try:
        texts = {kind: base64.b64decode(text, validate=True) for kind, text in random[0].items()}
        return {kind: torch.frombuffer(bytearray(text), dtype=torch.uint8) for kind, text in texts.items()}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, binascii.Error):
        raise CheckpointError(f"{path}: state.json: 'random' is broken; go on from another checkpoint") from None


def _device(model: GPT) -> torch.device:
    return model.embed.weight.device


def _counts_there(group: Mapping[str, Any]) -> bool:
    """Whether an optimizer keeps the number of its steps beside the parameters, and not on the CPU."""
    return bool(group.get("fused") or group.get("capturable"))


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
