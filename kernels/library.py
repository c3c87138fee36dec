"""What the kernels share: their places in PyTorch's library of operators, launches, and refusals.

A kernel becomes an operator of PyTorch by `operator`: then `torch.compile`, `torch.export` and activation
checkpointing see one node of known shape in place of Python that they cannot follow. Every launch goes through
`launch`, which counts it, so that a test can tell a kernel's result from a reference's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor
from torch import library as operators

from . import interpreter

if interpreter.is_on():
    interpreter.repair()

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

launches: Counter[str] = Counter()
"""How often each kernel was started in this process."""

_library = operators.Library("hornbook", "FRAGMENT")
_recorded: list[Launch] | None = None
_recorded_for = 0
_is_interpreted = cache(interpreter.is_on)  # as it was when Triton was imported: first asked at a kernel's start
_interpreting = Lock()  # the interpreter changes triton.language while it runs, for the whole process


class UnsupportedError(ValueError):
    """A call outside a kernel's contract; the message is the reason."""


def require(reason: str | None) -> None:
    """Refuse a call, if there is a reason to."""
    if reason is not None:
        raise UnsupportedError(reason)


def tensors_refused(*tensors: Tensor | None) -> str | None:
    """Why tensors cannot be given to a kernel together: their dtypes or devices. None if they can."""
    first = tensors[0]
    assert first is not None
    for t in tensors:
        if t is None:
            continue
        if t.dtype not in FLOATS:
            return f"the kernel takes fp32, fp16 and bf16, not {str(t.dtype).removeprefix('torch.')}"
        if t.device != first.device:
            return f"the tensors are on {first.device} and on {t.device}, but must be on one device"
    return None


def descriptor_refused(*tensors: Tensor) -> str | None:
    """Why the tensor memory accelerator (TMA) of a GPU cannot walk over these tensors, or None if it can.

    It wants a base at a multiple of 16 bytes, the last axis dense, and other strides multiples of 16 bytes and not 0.
    (An axis of size 1 is never walked along, so its stride does not count.)
    """
    for t in tensors:
        size = t.element_size()
        if not 0 < t.dim() <= 5:
            return f"a tensor descriptor has one to five axes, not {t.dim()}"
        if not t.numel():
            return f"a tensor descriptor needs something to describe, and this tensor is empty: {tuple(t.shape)}"
        if t.data_ptr() % 16:
            return "a tensor descriptor begins at a multiple of 16 bytes, and this tensor does not: clone() does"
        if t.shape[-1] > 1 and t.stride(-1) != 1:
            return f"a tensor descriptor's last axis is dense, and this tensor's has a stride of {t.stride(-1)}"
        for length, stride in zip(t.shape[:-1], t.stride()[:-1], strict=True):
            if length > 1 and (stride == 0 or stride * size % 16):
                return (
                    f"a tensor descriptor's strides are multiples of 16 bytes and not 0, and those of this tensor are "
                    f"{tuple(s * size for s in t.stride()[:-1])} bytes: contiguous() may do"
                )
    return None


def descriptor(t: Tensor, block: tuple[int, ...], layout: Any = None) -> Any:
    """A tensor as kernels take it that read and write through the tensor memory accelerator: blocks of one size, zeros
    for what lies beyond its ends. GPUs before sm_90 have none: there the same kernel is compiled to loads and stores.

    Args:
        t: one to five axes.
        block: powers of two, one for each axis; 16 bytes at least in the last.
        layout: for a kernel in Gluon, how a block lies in shared memory.

    Raises:
        UnsupportedError: if `descriptor_refused`.
    """
    require(descriptor_refused(t))
    row = max(8, t.shape[-1] + -t.shape[-1] % 8)  # a stride for axes of size 1, whose own may be any number
    strides = [stride if length > 1 else row for length, stride in zip(t.shape[:-1], t.stride()[:-1], strict=True)]
    if layout is not None:
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor as Described

        return Described(t, list(t.shape), [*strides, 1], list(block), layout)
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor(t, list(t.shape), [*strides, 1], list(block))


def tensor_of(argument: Any) -> Tensor | None:
    """The tensor that an argument of a launch stands for: itself, or what a descriptor describes; None of numbers."""
    if isinstance(argument, Tensor):
        return argument
    base = getattr(argument, "base", None)
    return base if isinstance(base, Tensor) else None


def cdiv(a: int, b: int) -> int:
    """How many times b it takes to cover a. (`triton.cdiv` serves kernels as well, and takes 2 µs a call.)"""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The first one from n on."""
    return 1 << (n - 1).bit_length() if n > 1 else 1


def operator(schema: str, implementation: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function that launches kernels as ``torch.ops.hornbook.NAME``.

    Args:
        schema: "name(Tensor x, float scale) -> Tensor"; PyTorch's language.
        implementation: for tensors on a CUDA device, and for those on the CPU where the interpreter is on.
        fake: the same, as far as shapes and dtypes go: no data is read, nothing launched.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    for device in ("CUDA", "CPU"):
        _library.impl(name, implementation, device)
    operators.register_fake(f"hornbook::{name}", fake, lib=_library)
    return getattr(torch.ops.hornbook, name).default


@dataclass(frozen=True)
class Launch:
    """A kernel with the arguments of one start of it."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int = 4,
    num_stages: int = 2,
    **meta: Any,
) -> None:
    """Start a kernel on the device of its first argument, a tensor or a `descriptor`. A grid without programs starts
    nothing.

    Raises:
        RuntimeError: for tensors on the CPU where the interpreter is off.
    """
    if 0 in grid:
        return
    # One rounding for a product and a sum, which Triton stops doing unasked in 3.10.
    options = {"num_warps": num_warps, "num_stages": num_stages, "enable_fp_fusion": True}
    if _recorded is not None:
        names = [p for p in kernel.arg_names if p not in meta]
        _recorded.append(Launch(kernel, grid, dict(zip(names, args, strict=True)) | meta, options))
        return
    first = tensor_of(args[0])
    assert first is not None
    device = first.device
    if device.type == "cpu" and not _is_interpreted():
        raise RuntimeError(
            f"{kernel.fn.__name__}: a Triton kernel runs on tensors in a CPU's memory only in Triton's interpreter: "
            f"set {interpreter.VARIABLE}=1 in the environment before triton is imported (slow), or move them to a GPU"
        )
    launches[kernel.fn.__name__] += 1
    if _is_interpreted():
        with _interpreting:
            kernel[grid](*args, **meta, **options)
    elif device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[grid](*args, **meta, **options)
    else:
        kernel[grid](*args, **meta, **options)


def is_recording() -> bool:
    """Whether launches are written down: then tensors may be on a CPU whatever the kernel."""
    return _recorded is not None


@contextmanager
def recording(target: int = 0) -> Iterator[list[Launch]]:
    """Inside, launches are written down and not done: how an ahead-of-time compiler learns what to compile.

    Args:
        target: the compute capability, such as 90, that kernels are then to be chosen for.
    """
    global _recorded, _recorded_for
    before, _recorded, _recorded_for = (_recorded, _recorded_for), [], target
    try:
        yield _recorded
    finally:
        _recorded, _recorded_for = before


def family(t: Tensor) -> int:
    """The compute capability that a kernel on a tensor is for: 90 of an H100 and H200; 0 in the interpreter."""
    if _recorded is not None:
        return _recorded_for
    return _capability(t.device.index) if t.is_cuda else 0


@cache
def multiprocessors(device: torch.device) -> int:
    """How many a GPU has; where there is none, as many as an H200."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132


@cache
def _capability(device: int) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
