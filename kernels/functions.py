"""Functions of single numbers that several kernels need."""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2E = tl.constexpr(math.log2(math.e))
LN2 = tl.constexpr(math.log(2.0))


@triton.jit
def tanh(x):
    """To about 3 units in the last place; near 0 by its series, as a difference of exponentials would cancel there."""
    z = x * x
    near = x + x * z * (-1 / 3 + z * (2 / 15 + z * (-17 / 315 + z * (62 / 2835))))
    e = tl.exp2(tl.abs(x) * (-2 * LOG2E))
    far = (1 - e) / (1 + e)
    return tl.where(z < 1 / 16, near, tl.where(x < 0, -far, far))
