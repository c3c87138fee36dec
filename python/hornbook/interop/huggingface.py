"""What Hugging Face model directories have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..files import read_json, read_tensors
from ..model import GPT, GPTConfig


def tensors(directory: Path) -> dict[str, Tensor]:
    """All weights of model.safetensors, or of the parts that model.safetensors.index.json names."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return read_tensors(directory / "model.safetensors")
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{index}: no weight_map in it, which says where each tensor is")
    parts = sorted(set(names.values()))
    return {name: tensor for part in parts for name, tensor in read_tensors(directory / part).items()}


def require(config: Mapping[str, Any], source: Path, *keys: str) -> None:
    """Refuse a configuration that lacks one of ``keys``."""
    if missing := [key for key in keys if key not in config]:
        raise CheckpointError(
            f"{source}/config.json: {', '.join(missing)} missing: not the configuration of a whole model"
        )


def expect(config: Mapping[str, Any], source: Path, **wanted: Any) -> None:
    """Refuse a configuration whose ``key`` has another value than the one, or those, that this code computes."""
    for key, value in wanted.items():
        if key in config and config[key] not in (value if isinstance(value, tuple) else (value,)):
            raise CheckpointError(f"{source}/config.json: {key}={config[key]!r} is not supported; only {value!r} is")


def unlike(config: GPTConfig, **wanted: Any) -> list[str]:
    """What keeps a configuration from being of an architecture: its fields that have another value than ``wanted``."""
    return [
        f"{name} is {getattr(config, name)!r}, not {' or '.join(map(repr, values))}"
        for name, value in wanted.items()
        if getattr(config, name) not in (values := value if isinstance(value, tuple) else (value,))
    ]


def without_padding(model: GPT) -> dict[str, Tensor]:
    """The model's tensors by our names, with a row for each token and no other."""
    V = model.config.vocab_size
    return {
        name: tensor[:V] if name in ("embed.weight", "lm_head.weight") else tensor
        for name, tensor in model.state_dict().items()
    }
