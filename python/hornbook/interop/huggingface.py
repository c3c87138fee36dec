"""What Hugging Face model directories have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from ..files import read_json, read_tensors


def tensors(directory: Path) -> dict[str, Tensor]:
    """All weights of model.safetensors, or of the parts that model.safetensors.index.json names."""
    index = directory / "model.safetensors.index.json"
    if not index.is_file():
        return read_tensors(directory / "model.safetensors")
    parts = sorted(set(read_json(index)["weight_map"].values()))
    return {name: tensor for part in parts for name, tensor in read_tensors(directory / part).items()}


def expect(config: Mapping[str, Any], source: Path, **wanted: Any) -> None:
    """Refuse a configuration whose ``key`` has another value than the one that this code computes."""
    for key, value in wanted.items():
        if config.get(key, value) not in (value if isinstance(value, tuple) else (value,)):
            raise CheckpointError(f"{source}: {key}={config[key]!r} is not supported; only {value!r} is")
