"""What `sanitizer` runs: small calls of attention's kernels, each held against the reference in float64.

Lengths are such that no block divides them, so that every edge of a tile is there. Inputs are made and results compared
in the CPU's memory, so that hardly a kernel but ours is watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kernels import attention_table
from ..kernels.attention_table import Choice
from . import attention_candidates, kernels, report
from .attention_candidates import Trial, words
from .operations.base import distance

Call = Callable[[str], float]
"""device → how far the result is from the reference"""
Calls = Iterator[tuple[str, Call]]

TOKENS, FAST_TOKENS, ROOM = 150, 300, 1152
"""of a sequence; of one for kernels with larger blocks; keys that a cache has room for"""


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def qkv(T_q: int, T_k: int, D: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Tensor]:
    """Two heads of queries that share keys and values."""
    q, k, v = (random(1, T, H, D, seed=n, dtype=dtype) for n, (T, H) in enumerate(((T_q, 2), (T_k, 1), (T_k, 1))))
    return q, k, v


def both_ways(attention: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor, **options: Any) -> list[Tensor]:
    """The result, the log-sum-exp if it is asked for, and three gradients, of both."""
    q, k, v = (t.detach().requires_grad_() for t in (q, k, v))
    found = attention(q, k, v, **options)
    results = found if isinstance(found, tuple) else (found,)
    upstream = [random(*y.shape, seed=3 + n).to(y) for n, y in enumerate(results)]
    return [*(y.detach() for y in results), *torch.autograd.grad(results, (q, k, v), upstream)]


def compared(call: Callable[..., Sequence[Tensor]], reference: Callable[..., Sequence[Tensor]], device: str,
             *inputs: Tensor, **options: Any) -> float:  # fmt: skip
    """Both on the same inputs, and how far apart the furthest of their results are."""

    def to(change: Callable[[Tensor], Tensor]) -> tuple[list[Tensor], dict[str, Any]]:
        named = {name: change(o) if isinstance(o, Tensor) else o for name, o in options.items()}
        return [change(t) for t in inputs], named

    given, named = to(lambda t: t.to(device))
    got = [t.cpu() for t in call(*given, **named)]
    given, named = to(lambda t: t.double() if t.is_floating_point() else t)
    return max(distance(a, b) for a, b in zip(got, reference(*given, **named), strict=True))


def plain() -> Calls:
    """Attention and its way back in its own blocks: each mask, each way to make scores, heads in one piece and two, as
    many queries as keys and fewer, a gradient of the log-sum-exp."""
    from ..kernels.attention import attention
    from ..reference.attention import attention as reference

    ids, slopes = torch.arange(TOKENS)[None] // 40, torch.tensor([0.5, 0.1])
    ends = torch.tensor([0, 1, 50, 50, TOKENS])
    few, bf16 = TOKENS * 3 // 5, torch.bfloat16
    for name, T_q, D, dtype, options in (
        ("causal", TOKENS, 64, bf16, {}),
        ("full, in two pieces, fewer queries", few, 96, bf16, {"causal": False}),
        ("causal, fewer queries", few, 128, torch.float16, {}),
        ("causal", TOKENS, 32, torch.float32, {}),
        ("window", TOKENS, 64, bf16, {"window": 50}),
        ("full window, fewer queries", few, 64, bf16, {"window": 50, "causal": False}),
        ("documents", TOKENS, 64, bf16, {"document_ids": ids}),
        ("packed sequences", TOKENS, 64, bf16, {"cu_seqlens": ends}),
        ("soft-cap, ALiBi and lse", TOKENS, 64, bf16, {"softcap": 5.0, "alibi_slopes": slopes, "return_lse": True}),
    ):  # fmt: skip

        def call(
            device: str, T_q: int = T_q, D: int = D, dtype: torch.dtype = dtype, options: dict[str, Any] = options
        ) -> float:
            q, k, v = qkv(T_q, TOKENS, D, dtype)
            if "cu_seqlens" in options:
                q, k, v = q[0], k[0], v[0]
            return compared(
                lambda *t, **o: both_ways(attention, *t, **o), lambda *t, **o: both_ways(reference, *t, **o), device,
                q, k, v, **options,
            )  # fmt: skip

        yield f"{name}, D={D}, {str(dtype).removeprefix('torch.')}", call


def offered() -> dict[tuple[str, str], dict[int, Choice]]:
    """(direction, variant) → head_dim from 64 to 128 → a candidate of the fast kernels. What adds in one order runs no
    other kernel where the order need not be the same every time, so it is there once."""
    found: dict[tuple[str, str], dict[int, Choice]] = {}
    for (direction, D), choices in sorted(attention_candidates.found()[0].items(), key=lambda item: item[0][1]):
        for choice in choices if 64 <= D <= 128 else ():
            if choice.variant in attention_table.FAST and not (direction == "reduce" and choice.variant != "reduce"):
                found.setdefault((direction, choice.variant), {}).setdefault(D, choice)
    return found


def fast() -> Calls:
    """Of each variant and direction a causal call with the fewest channels, and one without a mask, with fewer queries
    than keys and most channels; and of kernels that wait for each other in ways of their own also one with these, where
    the first queries see nothing."""
    from ..reference.attention import attention as reference

    few = FAST_TOKENS * 3 // 5
    for (direction, variant), choices in offered().items():
        cases = [(min(choices), True, FAST_TOKENS, FAST_TOKENS), (max(choices), False, few, FAST_TOKENS)]
        if direction != "forward" or variant.startswith("gluon"):
            cases.append((max(choices), True, FAST_TOKENS, few))
        for D, causal, T_q, T_k in cases:
            trial = Trial(direction, D, causal, choices[D])

            def call(device: str, trial: Trial = trial, T_q: int = T_q, T_k: int = T_k) -> float:
                launched = [
                    attention_candidates.launched(t, device=device)
                    for t in (trial, Trial(trial.direction, trial.head_dim, trial.causal, None))
                ]
                if launched[0] == launched[1]:
                    raise NotImplementedError("no kernel takes it on this device")

                def attend(*t: Tensor) -> Any:
                    return attention_candidates.attend(trial.direction, trial.causal, *t)

                def forced(*t: Tensor) -> list[Tensor]:
                    with attention_candidates.forced(trial.direction, trial.choice):
                        return [attend(*t)] if trial.direction == "forward" else both_ways(attend, *t)

                def expected(*t: Tensor) -> Sequence[Any]:
                    if trial.direction == "forward":
                        return [reference(*t, causal=trial.causal)]
                    return both_ways(reference, *t, causal=trial.causal)

                return compared(forced, expected, device, *qkv(T_q, T_k, trial.head_dim))

            yield f"{direction}: {words(choices[D])}, D={D}, {'causal' if causal else 'full'} {T_q}x{T_k}", call


def decode() -> Calls:
    """Few and many rows, one split and several, keys in a row and in pages, lengths that are not there."""
    from ..kernels.decode_attention import decode_attention
    from ..reference.decode_attention import decode_attention as reference

    lengths = torch.tensor([ROOM - 122, ROOM // 2, 0], dtype=torch.int32)
    for T_q, D, page in ((1, 64, 0), (5, 96, 0), (16, 128, 0), (1, 64, 16), (4, 128, 128)):

        def call(device: str, T_q: int = T_q, D: int = D, page: int = page) -> float:
            options = {}
            cache = (3, ROOM, 2, D)
            if page:
                order = torch.randperm(3 * ROOM // page, generator=torch.Generator().manual_seed(0)).int()
                options["block_table"], cache = order.view(3, -1), (3 * ROOM // page, page, 2, D)
            with torch.no_grad():
                return compared(
                    lambda *t, **o: [decode_attention(*t, **o)], lambda *t, **o: [reference(*t, **o)], device,
                    random(3, T_q, 4, D), random(*cache, seed=1), random(*cache, seed=2), lengths, **options,
                )  # fmt: skip

        yield f"{T_q} new, D={D}, {f'pages of {page}' if page else 'in a row'}", call


GROUPS: dict[str, Callable[[], Calls]] = {"plain": plain, "fast": fast, "decode": decode}


def run(group: str, device: str = "cuda", say: Callable[[str], None] = print) -> bool:
    """Make a group's calls; whether all results are right."""
    right = True
    for name, call in GROUPS[group]():
        try:
            error = call(device)
        except NotImplementedError as why:
            say(f"{group}: {name}: left out: {why}")
            continue
        except Exception as why:  # whatever a kernel does is what is asked
            right = False
            say(f"{group}: {name}: FAILED: {report.because(why)}")
            continue
        good = error <= kernels.TOLERANCE["bf16"]
        right &= good
        say(f"{group}: {name}: {'off by' if good else 'WRONG: off by'} {error:.1e}")
    return right
