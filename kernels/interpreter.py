"""Triton's CPU interpreter, repaired, so that every kernel also runs where there is no GPU.

With TRITON_INTERPRET=1 in the environment `triton.jit` makes functions that run a kernel's Python line by line on NumPy
arrays, one program after the other. That is slow, and right, but for faults that are mended here:

    bfloat16    NumPy has no such type, so the interpreter keeps the 16 bits as integers, and then computes with the
                integers. Here operands are widened to fp32 first, and results rounded to the nearest bfloat16, ties
                to even, as a GPU does it. (Upstream: https://github.com/triton-lang/triton/issues/11585)
    loops       ``range(n)`` with n known at run time fails in triton 3.6 with NumPy 2.4 and newer.
                (Upstream: https://github.com/triton-lang/triton/issues/9171)
    fma         rounds x y before it adds z in triton 3.6, where the one point of it is to round once.
    dot         sums in an order that depends on the shapes and on the machine's BLAS, so that a score computed twice
                may differ. Here the sum is taken in fp64 and rounded once: the same bits everywhere, and more exact
                than a GPU's sum in fp32.

And one thing is only slow: a function that a kernel calls makes the interpreter change all of triton.language anew,
which takes longer than most functions do. Once for each launch is enough.

Triton looks at the environment when it is imported, so `switch_on` must come before that.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any

VARIABLE = "TRITON_INTERPRET"


def is_on() -> bool:
    """Whether kernels run in the interpreter (or would, once Triton is imported)."""
    return os.environ.get(VARIABLE, "").lower() in ("1", "true", "yes", "on", "y")


def switch_on() -> None:
    """Run all kernels of this process in the interpreter.

    Raises:
        RuntimeError: if Triton was imported without it before: what is compiled then cannot be interpreted.
    """
    if not is_on():
        if "triton" in sys.modules:
            raise RuntimeError(
                "kernels on a CPU run in Triton's interpreter, and Triton was imported without it: "
                f"set {VARIABLE}=1 in the environment, or ask for the kernels before anything imports triton"
            )
        os.environ[VARIABLE] = "1"
    repair()


@functools.cache
def repair() -> None:
    """Mend the interpreter of the Triton that is installed."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    Builder, Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle

    def is_bf16(handle: Any) -> bool:
        return isinstance(handle, Handle) and handle.dtype.scalar == tl.bfloat16

    def widened(handle: Any) -> Any:
        """A bfloat16 handle as fp32, any other as it is. Exact: bfloat16 is the upper half of an fp32."""
        if not is_bf16(handle):
            return handle
        return Handle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def rounded(values: Any) -> Any:
        """fp32 values as a bfloat16 handle: the nearest, of two equally near ones the even."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        bits = values.view(np.uint32).astype(np.uint64)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
        return Handle(np.where(np.isnan(values), np.uint16(0x7FC0), nearest), tl.bfloat16)

    def in_fp32(name: str) -> None:
        """Let the builder's operation ``name`` see fp32 in place of bfloat16, and round what it returns."""
        original: Callable[..., Any] = getattr(Builder, name)

        @functools.wraps(original)
        def operation(self: Any, *args: Any) -> Any:
            if not any(map(is_bf16, args)):
                return original(self, *args)
            result = original(self, *map(widened, args))
            return rounded(result.data) if result.dtype.scalar == tl.float32 else result  # not of comparisons

        setattr(Builder, name, operation)

    for name in ("binary_op", "unary_op", "create_rsqrt", "create_erf", "create_clampf"):
        in_fp32(name)

    def dot(self: Any, a: Any, b: Any, c: Any, *options: Any, original: Any = Builder.create_dot) -> Any:
        a, b = widened(a), widened(b)
        if c.dtype.scalar != tl.float32 or a.data.dtype.kind != "f":
            return original(self, a, b, c, *options)
        exact = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)) + c.data
        return Handle(exact.astype(np.float32), tl.float32)

    Builder.create_dot = dot

    def fma(self: Any, x: Any, y: Any, z: Any, original: Callable[..., Any] = Builder.create_fma) -> Any:
        wide = [widened(a) for a in (x, y, z)]
        if wide[2].data.dtype != np.float32:
            return original(self, x, y, z)
        # The product of two fp32 is exact in fp64, so only the sum is rounded (once more than it should be, to fp64,
        # which can matter for one number in half a billion).
        a, b, c = (h.data.astype(np.float64) for h in wide)
        result = (a * b + c).astype(np.float32)
        return rounded(result) if is_bf16(z) else Handle(result, tl.float32)

    Builder.create_fma = fma

    def cast(self: Any, source: Any, target: Any, original: Callable[..., Any] = Builder.cast_impl) -> Any:
        wanted = target.scalar
        if is_bf16(source):
            source = source if wanted == tl.bfloat16 else widened(source)
        elif wanted == tl.bfloat16:
            return rounded(source.data.astype(np.float32))
        return source if source.dtype.scalar == wanted else original(self, source, target)

    def convert(self: Any, source: Any, target: Any, rounding: Any, original: Any = Builder.create_fp_to_fp) -> Any:
        plain = {tl.bfloat16, tl.float16, tl.float32, tl.float64}
        if {source.dtype.scalar, target.scalar} <= plain:
            return cast(self, source, target)
        return original(self, source, target, rounding)

    Builder.cast_impl, Builder.create_fp_to_fp = cast, convert
    Builder.get_bf16 = lambda self, value: rounded(np.array([value], np.float32))

    def reduce_in_fp32(kind: Any) -> None:
        """Sums, maxima and scans of bfloat16 are those of the fp32 values, rounded at the end."""
        original = kind.apply_impl

        def tensor(handle: Any, like: Any) -> Any:
            shape = list(handle.data.shape) if like.shape else []
            return tl.core.tensor(handle, tl.block_type(handle.dtype, shape) if shape else handle.dtype)

        def apply(self: Any, inputs: Any) -> Any:
            if not any(is_bf16(x.handle) for x in inputs):
                return original(self, inputs)
            result = original(self, tuple(tensor(widened(x.handle), x) for x in inputs))
            results = list(result) if isinstance(result, list | tuple) else [result]
            for i, x in enumerate(inputs):
                if is_bf16(x.handle):
                    results[i] = tensor(rounded(results[i].handle.data), results[i])
            return type(result)(results) if isinstance(result, list | tuple) else results[0]

        kind.apply_impl = apply

    reduce_in_fp32(interpreter.ReduceOps)
    reduce_in_fp32(interpreter.ScanOps)

    def with_index(patch: Callable[..., None]) -> Callable[..., None]:
        def patched(tensor: Any, scope: Any) -> None:
            patch(tensor, scope)
            scope.set_attr(tensor, "__index__", lambda self: int(np.asarray(self.handle.data).reshape(-1)[0]))

        return patched

    interpreter._patch_lang_tensor = with_index(interpreter._patch_lang_tensor)

    patch_lang, patched = interpreter._patch_lang, set[int]()  # modules that are patched for the launch under way

    def patch_once(fn: Any) -> Any:
        modules = {id(value) for value in fn.__globals__.values() if value is tl or value is tl.core}
        if modules <= patched:
            return interpreter._LangPatchScope()  # with nothing to restore
        scope = patch_lang(fn)
        restore = scope.restore
        patched.update(modules)

        def restore_all() -> None:
            patched.clear()
            restore()

        scope.restore = restore_all
        return scope

    interpreter._patch_lang = patch_once
