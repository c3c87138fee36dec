"""Attention: what its harness does not ask. Which tiles are visited, what is saved, rows that see nothing, and that the
reference's gradients are right."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hornbook.kernels import attention_call, attention_table, attention_tiles, interpreter, library
from hornbook.kernels.attention import attention
from hornbook.reference.attention import attention as reference
from hornbook.reference.attention import distances, documents, visible

from . import harness
from .operations import ATTENTION_MASKED
from .operations.attention import with_everything

needs_interpreter = pytest.mark.skipif(not interpreter.is_on(), reason="needs Triton's interpreter")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and not interpreter.is_on():
        pytest.skip("kernels run on the GPU here")
    return request.param


IDS = torch.tensor([[0, 0, 1, 2], [0, 1, 0, 1]])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"causal": False},
    {"window": 2},
    {"window": 2, "causal": False},
    {"scale": -0.3},
    {"softcap": 1.0},
    {"alibi_slopes": torch.tensor([0.5, 0.1])},
    {"document_ids": IDS},
    {"return_lse": True, "softcap": 2.0, "window": 3},
    {"return_weights": True, "document_ids": IDS},
]


@pytest.mark.once
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("T_q", [4, 2, 6])
def test_gradients_of_the_reference(options: dict[str, Any], T_q: int) -> None:
    if "document_ids" in options and T_q != 4:
        pytest.skip("of documents there is one length")
    torch.manual_seed(0)
    q = torch.randn(2, T_q, 2, 2, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(2, 4, 1, 2, dtype=torch.float64, requires_grad=True) for _ in "kv")

    def finite(*tensors: Any) -> Any:
        found = reference(*tensors, **options)
        return tuple(t.masked_fill(t.isinf(), 0.0) for t in (found if isinstance(found, tuple) else (found,)))

    assert torch.autograd.gradcheck(finite, (q, k, v))


def test_gradients_of_the_reference_packed() -> None:
    q, k, v = (torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True) for _ in "qkv")
    at = torch.tensor([0, 1, 1, 4, 6])
    assert torch.autograd.gradcheck(lambda *t: reference(*t, cu_seqlens=at, window=2, return_lse=True), (q, k, v))


@pytest.mark.parametrize("options", OPTIONS[:-1], ids=str)
def test_weights_of_the_reference(options: dict[str, Any]) -> None:
    """They are what is asked for: positive where a key is seen, 0 where not, of sum 1, and they make the result."""
    q, k, v = (torch.randn(2, 4, 2, 3) for _ in "qkv")
    y, *_, weights = reference(q, k, v, return_weights=True, **options)
    assert torch.equal(y, reference(q, k, v, **{**options, "return_lse": False}))
    seen = visible(4, 4, options.get("causal", True), options.get("window"), options.get("document_ids"), "cpu")
    assert torch.equal(weights > 0, seen.expand_as(weights))
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 4))
    torch.testing.assert_close(torch.einsum("bhij,bjhd->bihd", weights, v), y)


def test_shapes_of_three_dimensions() -> None:
    q, k, v = (torch.randn(2, 5, 3) for _ in "qkv")
    found = reference(q, k, v, return_lse=True, return_weights=True)
    assert [t.shape for t in found] == [(2, 5, 3), (2, 5), (2, 5, 5)]
    found = reference(q, k, v, return_lse=True, return_weights=True, cu_seqlens=torch.tensor([0, 2]))
    assert [t.shape for t in found] == [(2, 5, 3), (5, 2), (5, 2, 2)]


def test_what_alibi_and_windows_mean() -> None:
    """The last query stands at the last key."""
    assert distances(2, 4, "cpu").tolist() == [[2, 1, 0, -1], [3, 2, 1, 0]]
    assert visible(2, 4, True, 2, None, "cpu")[0, 0].tolist() == [
        [False, True, True, False],
        [False, False, True, True],
    ]
    assert visible(1, 4, False, 3, None, "cpu")[0, 0].tolist() == [[False, True, True, True]]


def test_one_tensor_is_saved_of_a_head(device: str) -> None:
    """Besides inputs and output the way back needs the log-sum-exp, and nothing else."""
    q, k, v = (torch.randn(2, 70, 16, device=device, requires_grad=True) for _ in "qkv")
    y = attention(q, k, v)
    saved = [t for t in y.grad_fn.saved_tensors if t is not None]
    rows = [t for t in saved if t.shape == (2, 70)]
    assert len(rows) == 1
    torch.testing.assert_close(rows[0], reference(q, k, v, return_lse=True)[1])
    assert {t.data_ptr() for t in saved} == {t.data_ptr() for t in (q, k, v, y, rows[0])}


@pytest.mark.parametrize("dtype", harness.DTYPES, ids=str)
def test_rows_that_see_nothing(dtype: torch.dtype, device: str) -> None:
    """0, a log-sum-exp of -inf, and no gradient, to any side; the others are as if these were not there."""
    q = torch.randn(1, 150, 2, 32, device=device, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(1, 40, 1, 32, device=device, dtype=dtype, requires_grad=True) for _ in "kv")
    with harness.poisoned():
        y, lse = attention(q, k, v, return_lse=True)
        dq, dk, dv = torch.autograd.grad(y.float().sum() + lse[..., 110:].sum(), (q, k, v))
    assert not y[:, :110].any()
    assert not dq[:, :110].any()
    assert (lse[..., :110] == -math.inf).all()
    last = q.detach()[:, 110:].requires_grad_()
    y_, lse_ = attention(last, k, v, return_lse=True)
    grads = torch.autograd.grad(y_.float().sum() + lse_.sum(), (last, k, v))
    limits = {"rtol": 2e-2, "atol": 2e-2} if dtype != torch.float32 else {}
    for got, want in zip((y[:, 110:], dq[:, 110:], dk, dv), (y_, *grads), strict=True):
        assert got.isfinite().all()
        torch.testing.assert_close(got, want, **limits)


def test_the_way_back_is_the_same_bits_fifty_times(device: str) -> None:
    case = with_everything(1, 20) if device == "cpu" else with_everything(2, 1000)
    inputs = harness.make(case, torch.bfloat16, device, seed=0)
    leaves = [t for t in inputs.values() if t is not None and t.requires_grad]
    y, lse = attention(**inputs, **case.options)
    upstream = torch.randn_like(y), torch.randn_like(lse)
    first = torch.autograd.grad((y, lse), leaves, upstream, retain_graph=True)
    for _ in range(49):
        with harness.launching(*ATTENTION_MASKED.backward):
            again = torch.autograd.grad((y, lse), leaves, upstream, retain_graph=True)
        assert all(map(torch.equal, first, again))


@pytest.mark.gpu
@pytest.mark.parametrize("D", [64, 128])
def test_the_way_back_of_a_model_is_the_same_bits_fifty_times(D: int) -> None:
    q, k, v = (torch.randn(2, 2048, h, D, device="cuda", dtype=torch.bfloat16, requires_grad=True) for h in (8, 2, 2))
    y = attention(q, k, v)
    dy = torch.randn_like(y)
    first = torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)
    for _ in range(49):
        again = torch.autograd.grad(y, (q, k, v), dy, retain_graph=True)
        assert all(map(torch.equal, first, again))


# Which tiles are visited.


@needs_interpreter
def products(monkeypatch: pytest.MonkeyPatch, T: int, **options: Any) -> int:
    """How many products of tiles the way there and back take."""
    from triton.runtime.interpreter import InterpreterBuilder as Builder

    seen = []
    original = Builder.create_dot
    monkeypatch.setattr(Builder, "create_dot", lambda *args: seen.append(1) or original(*args))
    q, k, v = (torch.randn(1, T, 1, 16, requires_grad=True) for _ in "qkv")
    attention(q, k, v, **options).sum().backward()
    monkeypatch.setattr(Builder, "create_dot", original)
    return len(seen)


@needs_interpreter
def test_what_nobody_sees_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    T = 384
    full, causal = (products(monkeypatch, T, causal=c) for c in (False, True))
    assert causal < 0.6 * full
    few = {length: products(monkeypatch, length, window=32) for length in (T // 2, T)}
    assert few[T] < 0.3 * full
    assert few[T] < 2.2 * few[T // 2]
    ids = torch.arange(T)[None] // 64
    assert products(monkeypatch, T, document_ids=ids, causal=False) < 0.25 * full
    mixed = torch.arange(T)[None] % 2  # both documents are everywhere
    assert products(monkeypatch, T, document_ids=mixed, causal=False) >= full
    at = torch.arange(0, 129, 32)
    q, k, v = (torch.randn(128, 1, 16) for _ in "qkv")
    torch.testing.assert_close(
        attention(q, k, v, cu_seqlens=at), reference(q, k, v, cu_seqlens=at), rtol=1e-4, atol=1e-5
    )


@triton.jit
def ends(
    Out, first, last, T, T_q, T_k, window, Start, Stop, Whole, t0, KEYS: tl.constexpr, CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    start, stop, whole = 0, 0, 0
    if DOCUMENTS:
        start, stop, whole = attention_tiles.document_of(Start, Stop, Whole, 0, t0 + tl.arange(0, BLOCK), T)
    if KEYS:
        a, b, c, d = attention_tiles.keys_seen(
            first, last, T_k, window, start, stop, whole, CAUSAL, WINDOW, DOCUMENTS, BLOCK
        )
    else:
        a, b, c, d = attention_tiles.queries_that_see(
            first, last, T_q, T_k - T_q, window, start, stop, whole, CAUSAL, WINDOW, DOCUMENTS, BLOCK
        )
    tl.store(Out, a)
    tl.store(Out + 1, b)
    tl.store(Out + 2, c)
    tl.store(Out + 3, d)


@needs_interpreter
@pytest.mark.parametrize("seed", range(40))
def test_ends_of_tiles(seed: int) -> None:
    """Outside of the outer ones nothing is seen, between the inner ones all is; and no multiple of the block further
    out or in would do as well."""
    chance = random.Random(seed)
    BLOCK = 16
    T_q = T_k = chance.randint(1, 90)
    ids = None
    if chance.random() < 0.5:
        ids = torch.tensor([[chance.randint(0, 3) for _ in range(T_q)]])
        ids = ids.sort(-1).values if chance.random() < 0.8 else ids
    else:
        T_k = chance.randint(1, 90)
    causal = chance.random() < 0.6
    window = chance.choice([None, 1, 7, 30])
    seen = visible(T_q, T_k, causal, window, ids, "cpu")[0, 0]
    spans = attention_tiles.documents(ids) if ids is not None else (torch.zeros(1),) * 3
    for keys in (True, False):
        T, other = (T_q, T_k) if keys else (T_k, T_q)
        of = seen if keys else seen.T  # (T, other)
        for t0 in range(0, T, BLOCK):
            rows = of[t0 : t0 + BLOCK]
            first, last = t0, min(t0 + BLOCK, T) - 1
            first, last = (first + T_k - T_q, last + T_k - T_q) if keys else (first, last)
            out = torch.zeros(4, dtype=torch.int64)
            library.launch(
                ends, (1,), out, first, last, T, T_q, T_k, window or 0, *spans, t0, KEYS=keys, CAUSAL=causal,
                WINDOW=window is not None, DOCUMENTS=ids is not None, BLOCK=BLOCK,
            )  # fmt: skip
            begin, inner_begin, inner_end, end = out.tolist()
            columns = torch.arange(other)
            outside = (columns < begin) | (columns >= end)
            assert not rows[:, outside].any()
            assert rows[:, inner_begin:inner_end].all()
            whole = ids is None or bool(spans[2][0])
            any_, all_ = rows.any(0), rows.all(0)
            if any_.any() and whole:
                at = any_.nonzero().flatten()
                assert begin == at[0] // BLOCK * BLOCK
                assert end == at[-1] + 1
                inner = [a for a in range(0, other, BLOCK) if all_[a : a + BLOCK].all() and a + BLOCK <= other]
                assert list(range(inner_begin, inner_end, BLOCK)) == inner


@triton.jit
def places(Block, Row, T, rows, together, BLOCK: tl.constexpr, LAST_FIRST: tl.constexpr):
    block, row = attention_tiles.place(T, rows, together, BLOCK, LAST_FIRST)
    tl.store(Block + tl.program_id(0), block)
    tl.store(Row + tl.program_id(0), row)


@needs_interpreter
@pytest.mark.parametrize(("T", "rows", "together"), [(1, 1, 1), (100, 7, 3), (65, 6, 6), (64, 5, 1), (200, 4, 100)])
@pytest.mark.parametrize("last_first", [True, False])
def test_every_block_has_one_program(T: int, rows: int, together: int, last_first: bool) -> None:
    together = min(together, rows)
    blocks = -(-T // 16)
    block, row = (torch.full((blocks * rows,), -1) for _ in range(2))
    library.launch(places, (blocks * rows,), block, row, T, rows, together, BLOCK=16, LAST_FIRST=last_first)
    found = list(zip(block.tolist(), row.tolist(), strict=True))
    assert sorted(found) == [(b, r) for b in range(blocks) for r in range(rows)]
    of_group = [b for b, r in found if r < together]
    assert of_group == sorted(of_group, reverse=last_first)
    assert [r for _, r in found][: together * blocks] == list(range(together)) * blocks


@pytest.mark.parametrize("seed", range(20))
def test_where_documents_begin_and_end(seed: int) -> None:
    chance = random.Random(seed)
    ids = torch.tensor([[chance.randint(-2, 3) for _ in range(12)] for _ in range(3)])
    if seed % 2:
        ids = ids.sort(-1).values
    start, stop, whole = attention_tiles.documents(ids)
    for b, row in enumerate(ids.tolist()):
        at = {of: [t for t, other in enumerate(row) if other == of] for of in row}
        assert start[b].tolist() == [at[of][0] for of in row]
        assert stop[b].tolist() == [at[of][-1] + 1 for of in row]
        assert bool(whole[b]) == all(len(of) == of[-1] + 1 - of[0] for of in at.values())


@pytest.mark.parametrize("ends_", [[0, 5], [0, 0, 2, 2, 5, 5], [0, 1, 2, 3, 4, 5], [0, 3, 5]])
def test_where_packed_sequences_begin_and_end(ends_: list[int]) -> None:
    at = torch.tensor(ends_, dtype=torch.int32)
    start, stop, whole = attention_tiles.packed(at, 5)
    of = documents(at, 5)
    want = attention_tiles.documents(of[None])
    assert torch.equal(start, want[0])
    assert torch.equal(stop, want[1])
    assert whole.tolist() == [1]


@pytest.mark.parametrize("D", range(16, 257, 8))
def test_pieces_of_a_head(D: int) -> None:
    first, second = attention_tiles.split(D)
    powers = [16, 32, 64, 128, 256]
    assert (first in powers, second in [0, *powers]) == (True, True)
    assert D <= first + second == min(a + b for a in powers for b in [0, *powers] if a + b >= D)
    assert D not in (96, 192) or (first, second) == (D // 3 * 2, D // 3)


@pytest.mark.parametrize("D", range(16, 257, 8))
@pytest.mark.parametrize("family", [0, 80, 90])
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("narrow", [True, False])
def test_every_head_dim_has_blocks(D: int, family: int, size: int, narrow: bool) -> None:
    blocks = attention_call.blocks_of(family, D, size, narrow)
    assert len(blocks) == 3
    assert all(n >= 16 and n & (n - 1) == 0 for of in blocks for n in (of.queries, of.keys))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is a whole number of at least 1, not 0"),
        ({"window": 2.5}, "window is a whole number of at least 1, not 2.5"),
        ({"softcap": math.nan}, "softcap is a number above 0, not nan"),
        ({"alibi_slopes": torch.ones(1, 2)}, r"alibi_slopes is \(2,\) or \(3, 2\), without gradient, not \(1, 2\)"),
        ({"alibi_slopes": torch.ones(2, requires_grad=True)}, "without gradient"),
        ({"document_ids": torch.zeros(1, 4, dtype=torch.int64)}, r"not the shape \(1, 4\)"),
        ({"document_ids": torch.zeros(3, 4)}, "document_ids holds int64 or int32 numbers, not torch.float32"),
        ({"scale": math.inf}, "scale must be a finite number"),
        ({"spans": (torch.zeros(3, 4, dtype=torch.int32),) * 3}, "spans are those of document_ids: give these, too"),
        (
            {
                "document_ids": torch.zeros(3, 4, dtype=torch.int64),
                "spans": (torch.zeros(3, 4, dtype=torch.int32),) * 3,
            },
            r"spans are what `documents` makes of document_ids of shape \(3, 4\)",
        ),
        (
            {
                "document_ids": torch.zeros(3, 4, dtype=torch.int64),
                "spans": (
                    *(torch.zeros(4, 3, dtype=torch.int32).t() for _ in range(2)),
                    torch.zeros(3, dtype=torch.int32),
                ),
            },
            r"spans are what `documents` makes of document_ids of shape \(3, 4\)",  # which lie in a row
        ),
    ],
)
def test_what_the_kernel_itself_refuses(options: dict[str, Any], message: str) -> None:
    """It would read what is not there."""
    q = torch.zeros(3, 4, 2, 16)
    with pytest.raises(library.UnsupportedError, match=message):
        attention(q, q, q, **options)


@needs_interpreter
@pytest.mark.parametrize("scale", [0.0, 1e-46, -1e-46])
def test_a_scale_of_nothing(scale: float) -> None:
    q, k, v = (torch.randn(1, 9, 1, 16, requires_grad=True) for _ in "qkv")
    y = attention(q, k, v, scale=scale)
    torch.testing.assert_close(y, reference(q, k, v, scale=0.0))
    dq, dk = torch.autograd.grad(y.sum(), (q, k))
    assert not dq.any()
    assert not dk.any()


def test_bits_that_may_differ_need_not() -> None:
    """Where a table has no kernel that adds in any order, the one with the same bits every time is taken."""
    found = attention_table.Choice("ordered", 64, 128, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(attention_table.TABLE, attention_table.Class("backward", 90, 64, True, False), found)
        assert attention_table.find("reduce", 90, 64, True, 1024) == found
        assert attention_table.find("reduce", 90, 64, True, 4096) is None
        assert attention_table.find("forward", 90, 64, True, 1024) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_is_about_numbers_of_two_bytes(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that were measured with these can want more shared memory than there is with those of four."""
    forward = attention_table.Choice("plain", 128, 128, 8, 2)
    back = attention_table.Choice("separate", 64, 128, 8, 2, (128, 64, 8, True, 2))
    for direction, choice in (("forward", forward), ("backward", back)):
        cls = attention_table.Class(direction, 90, 64, True, False)
        monkeypatch.setitem(attention_table.TABLE, cls, choice)
    q, k, v = (torch.zeros(1, 256, 2, 64, dtype=dtype, requires_grad=True) for _ in "qkv")
    with library.recording(90) as recorded:
        y = attention(q, k, v)
        torch.autograd.grad(y, (q, k, v), torch.zeros_like(y))
    of = {launch.kernel.fn.__name__: launch for launch in recorded}
    if dtype == torch.float32:
        want = attention_call.blocks_of(90, 64, 4)
    else:
        want = tuple(attention_call.Blocks(*b) for b in ((128, 128, 8), (64, 128, 8), back.dq or ()))
    for name, blocks in zip(("attention_forward", "attention_backward_kv", "attention_backward_q"), want, strict=True):
        got = of[name]
        assert (got.arguments["BLOCK_M"], got.arguments["BLOCK_N"]) == (blocks.queries, blocks.keys)
        assert (got.options["num_warps"], got.options["num_stages"]) == (blocks.warps, blocks.stages)
