"""The one place where an implementation is chosen.

`model.py` calls the functions at the end of this file. Each runs in one of three ways:

    reference   naive PyTorch, the specification (`reference/`)
    torch       the best that PyTorch itself offers (`native.py`)
    fused       our Triton kernel (`kernels/`), for the operations that have one

and ``auto`` means fused on CUDA, torch elsewhere. Choose for all operations or for single ones, with
`use_kernels`, with ``--kernels``, or with the environment:

    HORNBOOK_KERNELS=reference
    HORNBOOK_KERNELS=torch,attention=reference
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

from torch import Tensor

from . import native
from .errors import ConfigError, nearest

OPERATIONS = (
    "attention",
    "cross_entropy",
    "gelu",
    "layer_norm",
    "linear_cross_entropy",
    "relu2",
    "rms_norm",
    "rope",
    "softmax",
    "swiglu",
)
IMPLEMENTATIONS = ("auto", "reference", "torch", "fused")
KERNELS: frozenset[str] = frozenset()  # the operations that have a file in kernels/

log = logging.getLogger("hornbook")


class use_kernels:  # noqa: N801 (used like a function)
    """Choose implementations, for the whole process: until changed again, or for the length of a ``with``.

    >>> with use_kernels("reference", attention="torch"):
    ...     loss = model(ids, targets)

    Args:
        everything: "auto", "reference", "torch" or "fused" for every operation; unchanged if not given.
        **single: an operation's name = its implementation; these win over ``everything``.

    Raises:
        ConfigError: for an unknown name, and for "fused" asked by name of an operation without a kernel.
    """

    def __init__(self, everything: str | None = None, /, **single: str) -> None:
        choice = _check({} if everything is None else {"": everything}) | _check(single)
        self._choice, self._reset = choice, everything is not None
        self._before = dict(_chosen())
        self._apply()

    def _apply(self) -> None:
        if self._reset:
            _chosen().clear()
        _chosen().update(self._choice)

    def __enter__(self) -> None:
        self._apply()  # again, for an object that is entered more than once

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _chosen().clear()
        _chosen().update(self._before)


def kernels_in_use() -> dict[str, str]:
    """Which implementation each operation runs: {"attention": "torch", ...}."""
    return {op: _implementation(op) for op in OPERATIONS}


def parse(text: str) -> dict[str, str]:
    """Read the value of HORNBOOK_KERNELS or ``--kernels``, e.g. "torch,attention=reference".

    Returns:
        Operation → implementation, "" standing for all of them.
    """
    pairs = [part.strip().rpartition("=")[::2] for part in text.split(",") if part.strip()]
    return _check({op.strip(): implementation.strip() for op, implementation in pairs})


def use(text: str) -> None:
    """`use_kernels` for the text form, as ``--kernels`` gives it."""
    chosen = parse(text)
    use_kernels(chosen.pop("", None), **chosen)


_state: dict[str, str] | None = None


def _chosen() -> dict[str, str]:
    """The choice in force: operation → implementation, "" for all that are not named."""
    global _state
    if _state is None:
        _state = parse(os.environ.get("HORNBOOK_KERNELS", "auto"))
    return _state


def _check(choice: dict[str, str]) -> dict[str, str]:
    for op, implementation in choice.items():
        if op and op not in OPERATIONS:
            raise ConfigError(f"there is no operation {op!r}{nearest(op, OPERATIONS)}")
        if implementation not in IMPLEMENTATIONS:
            raise ConfigError(
                f"there is no implementation {implementation!r}{nearest(implementation, IMPLEMENTATIONS)}"
            )
        if op and implementation == "fused" and op not in KERNELS:
            raise ConfigError(f"{op} has no kernel yet: choose 'torch' or 'reference' for it")
    return choice


def _implementation(op: str) -> str:
    chosen = _chosen()
    wanted = chosen.get(op, chosen.get("", "auto"))
    if wanted == "fused" and op not in KERNELS:
        _say_once(f"kernels: {op} has no kernel, so it runs torch")
        return "torch"
    return "torch" if wanted == "auto" else wanted


@cache
def _say_once(message: str) -> None:
    log.info(message)


def _summary() -> str:
    """The choice in force, in one line: what most operations run, what others do, and why."""
    in_use = kernels_in_use()
    usual = max(IMPLEMENTATIONS, key=list(in_use.values()).count)
    others = "".join(f", {op}={which}" for op, which in in_use.items() if which != usual)
    asked = ",".join(f"{op}={which}" if op else which for op, which in _chosen().items()) or "auto"
    return f"kernels: {usual}{others} (asked for: {asked}; there are no fused kernels in this version)"


@cache
def _function(op: str, implementation: str) -> Callable[..., Any]:
    _say_once(_summary())
    if implementation == "torch":
        return getattr(native, op)
    return getattr(importlib.import_module(f".{implementation}.{op}", __package__), op)


def _run(op: str, *args: Any, **options: Any) -> Any:
    return _function(op, _implementation(op))(*args, **options)


# The operations. `reference/` says what each one means and which shapes it takes.


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, scale: float | None = None) -> Tensor:
    return _run("attention", q, k, v, causal=causal, scale=scale)


def cross_entropy(logits: Tensor, targets: Tensor, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    _known_reduction(reduction)
    return _run("cross_entropy", logits, targets, ignore_index=ignore_index, reduction=reduction)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return _run("gelu", x, approximate=approximate)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    return _run("layer_norm", x, weight, bias, eps)


def linear_cross_entropy(
    x: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    _known_reduction(reduction)
    return _run("linear_cross_entropy", x, weight, targets, ignore_index=ignore_index, reduction=reduction)


def relu2(x: Tensor) -> Tensor:
    return _run("relu2", x)


def rms_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    return _run("rms_norm", x, weight, bias, eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return _run("rope", x, cos, sin)


def softmax(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> Tensor:
    return _run("softmax", x, scale=scale, causal=causal)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    return _run("swiglu", gate, up)


def _known_reduction(name: str) -> None:
    if name not in ("mean", "sum", "none"):
        raise ConfigError(f"reduction is 'mean', 'sum' or 'none', not {name!r}")
