"""The one place where an implementation is chosen.

`model.py` calls the functions at the end of this file. Each runs in one of these ways:

    reference   naive PyTorch, the specification (`reference/`)
    torch       the best that PyTorch itself offers (`native.py`)
    fused       our Triton kernel (`kernels/`)
    composed    attention only: matmul, our softmax kernel, matmul (`composed.py`)

and ``auto`` means fused on CUDA, torch elsewhere. Choose for all operations or for single ones, with
`use_kernels`, with ``--kernels``, or with the environment:

    HORNBOOK_KERNELS=fused,attention=composed

A call that a kernel does not take (its ``refusal`` says why) runs torch under ``auto``, and is an error where fused or
composed was asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks, native
from .errors import ConfigError, nearest

OPERATIONS = (
    "add_norm", "attention", "cross_entropy", "decode_attention", "gelu", "layer_norm", "linear_cross_entropy", "relu2",
    "rms_norm", "rope", "sample_logits", "softmax", "swiglu",
)  # fmt: skip
IMPLEMENTATIONS = ("auto", "reference", "torch", "fused", "composed")
COMPOSED = frozenset({"attention"})
LEAST_GPU = (8, 0)  # compute capability; Triton's tensor-core code needs it

log = logging.getLogger("hornbook")


class use_kernels:  # noqa: N801 (used like a function)
    """Choose implementations, for the whole process: until changed again, or for the length of a ``with``.

    >>> with use_kernels("reference", attention="torch"):
    ...     loss = model(ids, targets)

    Args:
        everything: "auto", "reference", "torch" or "fused" for every operation; unchanged if not given.
        **single: an operation's name = its implementation; these win over ``everything``.

    Raises:
        ConfigError: for an unknown name, and for "fused" where this machine cannot run kernels at all.
    """

    def __init__(self, everything: str | None = None, /, **single: str) -> None:
        choice = _check({} if everything is None else {"": everything}) | _check(single)
        self._choice, self._reset = choice, everything is not None
        before = dict(_chosen())
        self._apply()
        self._made: tuple[dict[str, str], dict[str, str]] | None = before, dict(_chosen())
        self._restore: list[dict[str, str]] = []

    def _apply(self) -> None:
        if self._reset:
            _chosen().clear()
        _chosen().update(self._choice)
        decide()

    def __enter__(self) -> None:
        now = dict(_chosen())
        # The choice was made with the object, before the ``with``; unless something else was chosen in between.
        self._restore.append(self._made[0] if self._made is not None and self._made[1] == now else now)
        self._made = None
        self._apply()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _chosen().clear()
        _chosen().update(self._restore.pop())
        decide()


def kernels_in_use() -> dict[str, str]:
    """Which implementation each operation runs: {"attention": "torch", ...}."""
    return {op: _implementation(op) for op in OPERATIONS}


def parse(text: str) -> dict[str, str]:
    """Read the value of HORNBOOK_KERNELS or ``--kernels``, e.g. "torch,attention=reference": operation →
    implementation, "" standing for all of them."""
    choice: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        op, equals, implementation = (piece.strip() for piece in part.rpartition("="))
        if equals and not op:
            raise ConfigError(f"{part!r} names no operation: write an implementation, or OPERATION=IMPLEMENTATION")
        if choice.setdefault(op, implementation) != implementation:
            raise ConfigError(f"{text!r} chooses {op or 'for all operations'} twice: {choice[op]} and {implementation}")
    return _check(choice)


def use(text: str) -> None:
    """`use_kernels` for the text form, as ``--kernels`` gives it."""
    chosen = parse(text)
    use_kernels(chosen.pop("", None), **chosen)


def asked() -> str:
    """The choice in force in its text form, for `use`: "auto", or "torch,attention=reference"."""
    chosen = dict(_chosen())
    return ",".join([chosen.pop("", "auto"), *(f"{op}={implementation}" for op, implementation in chosen.items())])


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
        if implementation == "composed" and op not in COMPOSED:
            raise ConfigError("composed is a way to compute attention only: attention=composed")
    if {"fused", "composed"} & set(choice.values()):
        _make_kernels_run()
    return choice


def _make_kernels_run() -> None:
    """Prepare this machine for kernels that were asked for by name."""
    if (problem := kernels_problem()) is not None:
        raise ConfigError(f"kernels cannot run here: {problem}; choose 'torch', 'reference' or 'auto'")
    if not torch.cuda.is_available():
        interpreter = importlib.import_module(".kernels.interpreter", __package__)
        try:
            interpreter.switch_on()
        except RuntimeError as error:
            raise ConfigError(str(error)) from None
        _say_once(
            "kernels: no CUDA GPU, so they run in Triton's interpreter: right, but thousands of times slower than torch"
        )


@cache
def kernels_problem() -> str | None:
    """Why no kernel can run on this machine, not even in the interpreter; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (it exists for Linux; PyTorch's small CPU build comes without)"
    if torch.cuda.is_available() and torch.cuda.get_device_capability() < LEAST_GPU:
        have = ".".join(map(str, torch.cuda.get_device_capability()))
        return f"{torch.cuda.get_device_name()} has compute capability {have}, and kernels need 8.0 (Ampere) or newer"
    return None


def _implementation(op: str) -> str:
    """Which implementation was chosen for ``op``; auto is decided."""
    chosen = _chosen()
    wanted = chosen.get(op, chosen.get("", "auto"))
    if wanted == "auto":
        return "fused" if torch.cuda.is_available() and kernels_problem() is None else "torch"
    return wanted


def reason(op: str) -> str:
    """Why ``op`` runs what it runs, in a few words."""
    chosen = _chosen()
    wanted = chosen.get(op, chosen.get("", "auto"))
    if wanted != "auto":
        return "asked for"
    if not torch.cuda.is_available():
        return "auto: no CUDA GPU"
    return f"auto: {kernels_problem() or 'CUDA GPU'}"


@cache
def _say_once(message: str) -> None:
    log.info(message)


def _summary() -> str:
    """The choice in force, in one line: which operations run what, and why."""
    groups: dict[str, list[str]] = {}
    for op, which in kernels_in_use().items():
        groups.setdefault(which, []).append(op)
    usual = max(groups, key=lambda which: len(groups[which]))
    others = "; ".join(f"{which}: {', '.join(ops)}" for which, ops in groups.items() if which != usual)
    why = "" if torch.cuda.is_available() or "auto" not in asked() else ", which is torch without a CUDA GPU"
    return f"kernels: {usual}{f' ({others})' if others else ''}; asked for: {asked()}{why}"


@cache
def _module(op: str, implementation: str) -> Any:
    """Where an implementation of ``op`` is; it has a function of that name."""
    match implementation:
        case "torch":
            return native
        case "fused":
            return importlib.import_module(f".kernels.{op}", __package__)
        case "composed":
            return importlib.import_module(".composed", __package__)
        case _:
            return importlib.import_module(f".reference.{op}", __package__)


# What runs each operation: the function, the kernel's ``refusal`` if it is a kernel, and whether that was our decision
# (auto). In a plain dictionary, as torch.compile can look into that, but not into imports and logging.
_decided: dict[str, tuple[Callable[..., Any], Callable[..., str | None] | None, bool]] = {}
_spans_of: list[Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = []  # one, where attention is our kernel


def decide() -> None:
    """Find the functions of the choice in force, and say what was chosen. `_run` does it when it is first needed; a
    model does it when it is made, as that is before it can be compiled."""
    _say_once(_summary())
    chosen = _chosen()
    for op in OPERATIONS:
        implementation = _implementation(op)
        module = _module(op, implementation)
        refusal = module.refusal if implementation in ("fused", "composed") else None
        _decided[op] = getattr(module, op), refusal, chosen.get(op, chosen.get("", "auto")) == "auto"
        if op == "attention":
            _spans_of[:] = [module.documents] if implementation == "fused" else []


def _run(op: str, *args: Any, ours: dict[str, Any] | None = None, **options: Any) -> Any:
    """``ours``: options that only our kernel has."""
    if not _decided:
        decide()
    function, refusal, is_auto = _decided[op]
    if refusal is None or (is_auto and not args[0].is_cuda):  # the latter: in the CPU's memory, beside a GPU
        return (function if refusal is None else getattr(native, op))(*args, **options)
    if torch.compiler.is_compiling():  # which does not follow exceptions
        why = refusal(*args, **options)
        if why is None:
            return function(*args, **options, **(ours or {}))
    else:
        try:  # asking first would ask twice, as the function does so, too: a tenth of a call's time
            return function(*args, **options, **(ours or {}))
        except ValueError:
            why = refusal(*args, **options)
            if why is None:
                raise
    if not is_auto:
        raise ConfigError(f"{op}: {why}; choose {op}=torch for such calls, or auto")
    if not torch.compiler.is_compiling():
        _say_once(f"kernels: a call of {op} runs torch: {why}")
    return getattr(native, op)(*args, **options)


def reads_caches(x: Tensor, head_dim: int) -> bool:
    """Whether a model whose activations are ``x`` decodes by our `decode_attention`: for tensors that the kernel takes,
    and where attention, too, is ours, unless decoding was chosen by name."""
    if not _decided:
        decide()
    named = "decode_attention" in _chosen()
    ours = _implementation("decode_attention") == "fused" and (named or _implementation("attention") == "fused")
    takes = 16 <= head_dim <= 256 and head_dim % 8 == 0 and x.dtype in (torch.float32, torch.float16, torch.bfloat16)
    return ours and takes and (x.is_cuda or not _decided["decode_attention"][2])


class Documents(NamedTuple):
    """document_ids, and where documents begin and end, as our kernel of attention wants to know it; see `documents`."""

    ids: Tensor
    spans: tuple[Tensor, Tensor, Tensor] | None


def documents(ids: Tensor) -> Documents:
    """For several calls of `attention` with the same (B, T) document_ids, such as all layers of a model: what our
    kernel asks of them, in about 30 small launches, is found out once, as they are now."""
    checks.ids("document_ids", ids)
    if not _decided:
        decide()
    return Documents(ids, _spans_of[0](ids) if _spans_of and (ids.is_cuda or not _decided["attention"][2]) else None)


# The operations. `reference/` says what each one means and which shapes it takes.


def add_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    norm: str = "layer_norm",
) -> tuple[Tensor, Tensor]:
    checks.known("norm", norm, ("layer_norm", "rms_norm"))
    checks.same("residual", residual, x.shape)
    return _run("add_norm", x, residual, weight, bias, eps, norm=norm)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    document_ids: Tensor | Documents | None = None,
    cu_seqlens: Tensor | None = None,
    return_lse: bool = False,
    deterministic: bool = True,
) -> Any:
    ours: dict[str, Any] | None = None
    if isinstance(document_ids, Documents):
        document_ids, spans = document_ids
        ours = {"spans": spans} if _spans_of else None
    if window is not None or softcap is not None or alibi_slopes is not None:
        checks.scores(window, softcap, alibi_slopes, q, packed=cu_seqlens is not None)
    if document_ids is not None or cu_seqlens is not None:
        checks.documents(document_ids, cu_seqlens, q, k)
    return _run(
        "attention", q, k, v, causal=causal, window=window, scale=scale, softcap=softcap, alibi_slopes=alibi_slopes,
        document_ids=document_ids, cu_seqlens=cu_seqlens, return_lse=return_lse, deterministic=deterministic,
        ours=ours,
    )  # fmt: skip


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    inplace: bool = False,
) -> Tensor:
    checks.loss(reduction, label_smoothing, softcap)
    return _run(
        "cross_entropy", logits, targets, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap, inplace=inplace,
    )  # fmt: skip


def decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    *,
    block_table: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    if window is not None or softcap is not None or alibi_slopes is not None:
        checks.scores(window, softcap, alibi_slopes, q, packed=False)
    checks.cached(q, k_cache, v_cache, lengths, block_table)
    return _run(
        "decode_attention", q, k_cache, v_cache, lengths, block_table=block_table, window=window, scale=scale,
        softcap=softcap, alibi_slopes=alibi_slopes,
    )  # fmt: skip


def gelu(x: Tensor, bias: Tensor | None = None, *, approximate: str = "none") -> Tensor:
    checks.known("approximate", approximate, ("none", "tanh"))
    checks.same("bias", bias, x.shape[-1:])
    return _run("gelu", x, bias, approximate=approximate)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    return _run("layer_norm", x, weight, bias, eps)


def linear_cross_entropy(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
) -> Tensor:
    checks.loss(reduction, label_smoothing, softcap)
    return _run(
        "linear_cross_entropy", x, weight, targets, ignore_index=ignore_index, reduction=reduction,
        label_smoothing=label_smoothing, z_loss=z_loss, softcap=softcap,
    )  # fmt: skip


def relu2(x: Tensor, bias: Tensor | None = None) -> Tensor:
    checks.same("bias", bias, x.shape[-1:])
    return _run("relu2", x, bias)


def rms_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    return _run("rms_norm", x, weight, bias, eps)


def rope(x: Tensor, cos: Tensor, sin: Tensor, *, positions: Tensor | None = None, interleaved: bool = False) -> Tensor:
    return _run("rope", x, cos, sin, positions=positions, interleaved=interleaved)


def sample_logits(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> Tensor:
    checks.filters(temperature, top_k, top_p, min_p)
    return _run("sample_logits", logits, uniform, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)


def softmax(x: Tensor, *, scale: float = 1.0, causal: bool = False) -> Tensor:
    return _run("softmax", x, scale=scale, causal=causal)


def swiglu(gate: Tensor, up: Tensor | None = None) -> Tensor:
    checks.same("up", up, gate.shape)
    return _run("swiglu", gate, up)


for _op in (*OPERATIONS, "documents"):  # if one fails with a list for a tensor, it says so
    globals()[_op] = checks.explained(globals()[_op])
