"""The kernel that reads a cache of keys and values, against the reference in float64.

What a cache holds beyond a sequence's length is nan in all of these tests, and so is the memory that a result is to
fill; and no program may read outside of the tensors it was given.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import hornbook.kernels
import pytest
import torch
from hornbook import native, ops
from hornbook.cache import KVCache
from hornbook.errors import ConfigError
from hornbook.kernels import decode_attention as kernel
from hornbook.kernels import interpreter, library
from hornbook.model import GPT, GPTConfig
from hornbook.reference.decode_attention import decode_attention as reference
from torch import Tensor
from torch import library as operators
from torch.fx.experimental.proxy_tensor import make_fx

from . import harness
from .test_harness import DEVICE, interpreter_error, load

NAN = math.nan
each_dtype = pytest.mark.parametrize("dtype", harness.DTYPES, ids=lambda d: str(d).removeprefix("torch."))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and not interpreter.is_on():
        pytest.skip("kernels run on the GPU here, and the interpreter is off")
    return request.param


@pytest.fixture(autouse=True)
def _within_bounds() -> Iterator[None]:
    """Nothing is read or written outside of the tensors."""
    with harness.within_bounds():
        yield


@dataclass(frozen=True)
class Call:
    """Shapes and options. ``slopes`` is how many dimensions the slopes have; ``page`` is the size of a page."""

    lengths: tuple[int, ...]
    T_q: int = 1
    heads: tuple[int, int] = (2, 1)
    D: int = 64
    page: int | None = None
    slopes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    room: int | None = None  # keys; those of the longest if not given

    def __str__(self) -> str:
        lengths = "+".join(map(str, self.lengths))
        parts = [f"{lengths}keys", f"{self.T_q}new", f"{self.heads[0]}by{self.heads[1]}heads", f"D{self.D}"]
        parts += [f"page{self.page}"] if self.page else []
        parts += [f"room{self.room}"] if self.room is not None else []
        parts += [f"slopes{self.slopes}d"] if self.slopes else []
        return ",".join(parts + [f"{name}={value}" for name, value in self.options.items()])

    def make(self, dtype: torch.dtype, device: str, seed: int = 0) -> tuple[list[Tensor], dict[str, Any]]:
        """q, k_cache, v_cache and lengths; and the options. Beyond each length there is nan."""
        random = torch.Generator().manual_seed(seed)
        B, (H, H_kv), D = len(self.lengths), self.heads, self.D
        room = max(1, *self.lengths) if self.room is None else self.room
        q = torch.randn(B, self.T_q, H, D, generator=random).to(dtype)
        keys = [torch.randn(B, room, H_kv, D, generator=random).to(dtype) for _ in range(2)]
        for cache in keys:
            for b, length in enumerate(self.lengths):
                cache[b, max(0, length) :] = NAN
        options = dict(self.options)
        if self.slopes:
            options["alibi_slopes"] = torch.rand((H,) if self.slopes == 1 else (B, H), generator=random).to(device)
        if self.page:
            keys, table = paged(keys, self.page, random)
            options["block_table"] = table.to(device)
        lengths = torch.tensor(self.lengths, dtype=torch.int32 if seed % 2 else torch.int64)
        return [t.to(device) for t in (q, *keys, lengths)], options


def paged(caches: list[Tensor], page: int, random: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """The same keys in pages that lie anywhere, some of which are nobody's and hold nan; and the table."""
    B, room = caches[0].shape[:2]
    n = -(-room // page)
    table = torch.randperm(B * n + 2, generator=random)[: B * n].view(B, n)
    found = []
    for cache in caches:
        pages = cache.new_full((B * n + 2, page, *cache.shape[2:]), NAN)
        whole = cache.new_full((B, n * page, *cache.shape[2:]), NAN)
        whole[:, :room] = cache
        pages[table] = whole.unflatten(1, (n, page))
        found.append(pages)
    return found, table.int()


CALLS = [
    *(Call((length,)) for length in (0, 1, 2, 63, 64, 65, 127)),
    Call((1000, 64), heads=(3, 1)),
    Call((1000, 64), 5, (8, 1), 128),
    Call((65, 0, 130), 2, (2, 2)),
    Call((3, 70), 5, (3, 1), 24),
    Call((127, 16, 9), 16, (8, 1), 32),  # 128 rows
    Call((66,), 16, (12, 1), 16),  # two blocks of rows
    Call((-5, 70), 2),
    Call((100, 20), 2, room=64),  # more than there is room for
    *(Call((70, 33), 2, (6, 2), D) for D in (16, 24, 40, 72, 96, 128)),
    *(Call((40,), T_q, (8, 1), D) for D in (160, 192, 256) for T_q in (1, 5)),
    *(Call((100, 3), 2, (4, 2), page=page) for page in (1, 7, 16, 64)),
    Call((200, 129), 1, (3, 1), 96, page=128),
    Call((300, 129), 5, page=64, options={"window": 20}),
    *(Call((150, 20), 5, (4, 2), options={"window": window}) for window in (1, 16, 64, 1000)),
    Call((90, 7), 3, (2, 2), options={"softcap": 2.0}),
    Call((90, 7), 3, (3, 1), slopes=1),
    Call((90, 7), 3, (3, 1), slopes=2, options={"softcap": 5.0, "window": 33, "scale": 0.3}, page=16),
    Call((90, 7), options={"scale": -0.5}),
    Call((90, 7), options={"scale": 0.0}),
]
LARGE = [
    Call((8192, 5000, 1), 1, (64, 8), 128),
    Call((8192, 5000, 1), 16, (64, 8), 128, page=16),
    Call((65_536,), 4, (16, 2), 64),
    Call((8192, 100), 8, (32, 32), 96, page=64, options={"window": 1024}),
    Call(tuple(range(1, 4000, 63)), 2, (24, 8), 256),
]


def check(
    call: Call, dtype: torch.dtype, device: str, decode: Any = kernel.decode_attention, draws: int = harness.DRAWS
) -> None:
    """Results are as near to the reference as PyTorch's, as in `harness.check_accuracy`."""
    error = allowed = largest = 0.0
    for seed in range(draws):
        inputs, options = call.make(dtype, device, seed)
        exact = reference(*(t.double() if t.is_floating_point() else t for t in inputs), **options)
        peer = native.decode_attention(*inputs, **options)
        with harness.poisoned():
            got = decode(*inputs, **options)
        assert got.dtype == dtype
        assert got.shape == exact.shape
        assert got.isfinite().all(), f"{int((~got.isfinite()).sum())} of {got.numel()} are not finite"
        error = max(error, (got.double() - exact).abs().max().item())
        allowed = max(allowed, (peer.double() - exact).abs().max().item())
        largest = max(largest, exact.abs().max().item())
        limit = 1.5 * allowed + harness.ulp(dtype, largest)
        if error <= limit:
            return
        if error > harness.FAR * limit:
            break
    raise AssertionError(f"error {error:.3g}, PyTorch's {allowed:.3g}, so at most {limit:.3g}, over {draws} draws")


@each_dtype
@pytest.mark.parametrize("call", CALLS, ids=str)
def test_accuracy(call: Call, dtype: torch.dtype, device: str) -> None:
    with harness.launching("decode_attention_split"):
        check(call, dtype, device)


@pytest.mark.gpu
@each_dtype
@pytest.mark.parametrize("call", LARGE, ids=str)
def test_large_caches(call: Call, dtype: torch.dtype) -> None:
    with harness.launching("decode_attention_split"):
        check(call, dtype, "cuda", draws=2)


def cut(splits: int, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many splits, however short."""
    monkeypatch.setattr(module, "number_of_splits", lambda *_: splits)
    monkeypatch.setattr(module, "SPLIT_BYTES", 0)
    monkeypatch.setattr(module, "SPLIT_SHARE", 0)
    narrow = {key: tuple(tile._replace(keys=16) for tile in tiles) for key, tiles in module.TABLE.items()}
    monkeypatch.setattr(module, "TABLE", narrow)


SPLIT_CALLS = [
    Call((200, 17, 0), 2, (4, 2), 32),
    Call((200, 33), 5, (2, 1), 96, page=16, options={"window": 50}),
    Call((150,), slopes=1, options={"softcap": 4.0}, page=7),
]


@pytest.mark.parametrize("splits", [1, 2, 5, 17, 40])
@pytest.mark.parametrize("call", SPLIT_CALLS, ids=str)
def test_any_number_of_splits(call: Call, splits: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(splits, kernel, monkeypatch)
    merges = ("decode_attention_merge",) if splits > 1 else ()
    with harness.launching("decode_attention_split", *merges):
        check(call, torch.float32, device)
        if splits in (1, 5):
            check(call, torch.bfloat16, device)


def test_splits_are_cut_from_each_length(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short sequence in a large cache is read by as many programs: what each adds up is what is merged."""
    cut(4, kernel, monkeypatch)
    call = Call((128, 64, 20), 1, (1, 1), 16, room=1024)
    inputs, options = call.make(torch.float32, device)
    kept: list[Tensor] = []
    launch = library.launch

    def noting(of: Any, grid: tuple[int, ...], *args: Any, **more: Any) -> None:
        if of is kernel.decode_attention_merge:
            kept.append(args[1].clone())
        else:
            args[8].fill_(NAN)  # what no split writes
        launch(of, grid, *args, **more)

    monkeypatch.setattr(library, "launch", noting)
    kernel.decode_attention(*inputs, **options)
    written = kept[0].isfinite().flatten(1).int().tolist()  # (B, splits)
    assert written == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0]]


@each_dtype
@pytest.mark.parametrize(
    "call", [replace(SPLIT_CALLS[0], lengths=(45, 0), heads=(2, 1)), replace(SPLIT_CALLS[1], lengths=(40,))], ids=str
)
def test_it_is_repeatable(call: Call, dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut(3, kernel, monkeypatch)
    inputs, options = call.make(dtype, device)
    first = kernel.decode_attention(*inputs, **options)
    for _ in range(harness.REPEATS - 1):
        assert torch.equal(kernel.decode_attention(*inputs, **options), first)


@each_dtype
@pytest.mark.parametrize("D", [24, 64])
def test_a_cache_may_lie_anywhere(D: int, dtype: torch.dtype, device: str) -> None:
    """A layer of a larger one, heads before tokens, gaps, strides that are no multiple of 16 bytes, pages, and queries
    with gaps: the same bits."""
    (q, k, v, lengths), _ = Call((128, 77), 3, (4, 2), D).make(dtype, device)
    want = kernel.decode_attention(q, k, v, lengths)

    def layer(t: Tensor) -> Tensor:
        wide = t.new_full((3, *t.shape), NAN)
        wide[1] = t
        return wide[1]

    def heads_first(t: Tensor) -> Tensor:
        return t.transpose(1, 2).contiguous().transpose(1, 2)

    def apart(t: Tensor) -> Tensor:
        wide = t.new_full((*t.shape[:-1], D + 3), NAN)
        wide[..., :D] = t
        return wide[..., :D]

    for change in (layer, heads_first, apart):
        assert torch.equal(kernel.decode_attention(q, change(k), change(v), lengths), want), change.__name__
    assert torch.equal(kernel.decode_attention(q, layer(k), heads_first(v), lengths), want)
    gaps = q.new_full((*q.shape[:-1], 2 * D), NAN)
    gaps[..., ::2] = q
    assert torch.equal(kernel.decode_attention(gaps[..., ::2], k, v, lengths), want)
    assert torch.equal(kernel.decode_attention(heads_first(q), k, v, lengths.int()), want)
    random = torch.Generator().manual_seed(3)
    for page in (16, 64, 128):
        caches, table = paged([k.cpu(), v.cpu()], page, random)
        wide_table = torch.full((2, 2 * table.shape[1]), -9, dtype=torch.int32)
        wide_table[:, ::2] = table
        for pages in (table.to(device), wide_table.to(device)[:, ::2]):
            got = kernel.decode_attention(q, *(t.to(device) for t in caches), lengths, block_table=pages)
            assert torch.equal(got, want), page


def test_keys_that_no_window_reaches_are_not_read(device: str) -> None:
    """They are nan here, or their pages are gone."""
    (q, k, v, lengths), _ = Call((200, 90), 4, (2, 1), 32).make(torch.float32, device)
    want = kernel.decode_attention(q, k, v, lengths, window=20)
    random = torch.Generator().manual_seed(4)
    caches, table = paged([k.cpu(), v.cpu()], 8, random)
    for b, length in enumerate((200, 90)):
        first = length - 4 - 20 + 1
        k[b, :first], v[b, :first] = NAN, NAN
        table[b, : first // 8] = -1
    assert torch.equal(kernel.decode_attention(q, k, v, lengths, window=20), want)
    pages = [t.to(device) for t in caches]
    got = kernel.decode_attention(q, *pages, lengths, block_table=table.to(device), window=20)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("page", [4, 64])
def test_a_page_that_is_not_there_has_no_keys(page: int, device: str) -> None:
    call = Call((200, 150), 3, (2, 1), 32, page=page)
    inputs, options = call.make(torch.float32, device)
    table = options["block_table"].clone()
    table[0, 0], table[0, -1], table[1, 1] = -1, len(inputs[1]), -(2**31)
    got = kernel.decode_attention(*inputs, block_table=table)
    for other in (reference, native.decode_attention):
        torch.testing.assert_close(got, other(*inputs, block_table=table), atol=1e-6, rtol=1e-6)
    table.fill_(-1)
    assert not kernel.decode_attention(*inputs, block_table=table).any()
    nothing = [t[:0] for t in inputs[1:3]]
    for decode in (kernel.decode_attention, reference, native.decode_attention):
        assert not decode(inputs[0], *nothing, inputs[3], block_table=table).any()


def test_a_query_before_the_first_key_sees_nothing(device: str) -> None:
    inputs, _ = Call((3, 0, -4), 5, (2, 1), room=70).make(torch.float32, device)
    for decode in (kernel.decode_attention, reference, native.decode_attention):
        got = decode(*inputs)
        assert got[0, 2:].all()
        assert not got[0, :2].any()
        assert not got[1:].any()


def test_large_scores_do_not_overflow(device: str) -> None:
    (q, k, v, lengths), _ = Call((100, 30), 2, (2, 1), 32).make(torch.float32, device)
    got = kernel.decode_attention(q * 300, k * 300, v, lengths)
    torch.testing.assert_close(got, reference(q * 300, k * 300, v, lengths), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("q", "cache"),
    [((0, 1, 2, 16), (0, 5, 1, 16)), ((2, 0, 2, 16), (2, 5, 1, 16)), ((2, 1, 0, 16), (2, 5, 1, 16))],
    ids=["no sequences", "no queries", "no heads"],
)
def test_empty(q: tuple[int, ...], cache: tuple[int, ...], device: str) -> None:
    queries, keys = torch.randn(q, device=device), torch.randn(cache, device=device)
    lengths = torch.full(q[:1], 3, device=device)
    for decode in (kernel.decode_attention, reference, native.decode_attention):
        assert decode(queries, keys, keys, lengths).shape == q
    nothing = torch.randn(2, 0, 1, 16, device=device)
    one = torch.randn(2, 1, 2, 16, device=device)
    for decode in (kernel.decode_attention, reference, native.decode_attention):
        assert not decode(one, nothing, nothing, torch.tensor([3, 0], device=device)).any()


@pytest.mark.parametrize("slots", [108, 264, 396])
def test_the_number_of_splits(slots: int) -> None:
    """As few as leave hardly a multiprocessor without work, and none where there are programs enough."""
    for programs in (1, 2, 7, 8, 64, 100, 131, 300, 1000, 10_000):
        for room in (1, 128, 4096, 131_072):
            n = kernel.number_of_splits(programs, room, 128, slots)
            most = max(1, min(-(-room // 128), kernel.MOST_SPLITS))
            waves = {s: -(-s * programs // slots) for s in range(1, most + 1)}
            use = {s: s * programs / (waves[s] * slots) for s in waves}
            assert 1 <= n <= most
            assert use[n] >= 0.9 * max(use.values())
            assert all(use[s] < 0.9 * max(use.values()) for s in range(1, n))
    assert kernel.number_of_splits(slots, 1 << 20, 128, slots) == 1
    assert kernel.number_of_splits(8, 1 << 20, 128, slots) * 8 >= 0.9 * slots


def test_parts_hold_all_channels() -> None:
    for D in range(16, 257, 8):
        first, second = kernel.parts(D)
        assert D <= first + second < 2 * D
        assert first & (first - 1) == 0
        assert second in (0, first // 2)
    assert kernel.parts(96) == (64, 32)
    assert kernel.parts(192) == (128, 64)


# PyTorch's side of it.


def test_it_is_an_operator(device: str) -> None:
    for call in (Call((70, 3), 2), Call((70, 3), 2, page=16, slopes=1, options={"window": 9, "softcap": 3.0})):
        inputs, options = call.make(torch.float32, device)
        arguments = (
            *inputs, options.get("block_table"), options.get("window", kernel.FAR), 0.125, options.get("softcap", 0.0),
            options.get("alibi_slopes"),
        )  # fmt: skip
        operators.opcheck(torch.ops.hornbook.decode_attention.default, arguments)
        want = kernel.decode_attention(*inputs, **options)
        torch._dynamo.reset()
        backend = "inductor" if device == "cuda" else "aot_eager"  # the latter needs no C++ compiler
        more = {name: value for name, value in options.items() if not isinstance(value, Tensor)}
        tensors = {name: value for name, value in options.items() if isinstance(value, Tensor)}

        def decode(*inputs: Tensor, more: dict[str, Any] = more, **tensors: Tensor) -> Tensor:
            return ops.decode_attention(*inputs, **tensors, **more) + 0

        with ops.use_kernels("torch", decode_attention="fused"), torch.no_grad():
            compiled = torch.compile(decode, fullgraph=True, backend=backend)
            with harness.launching("decode_attention_split"):
                assert torch.equal(compiled(*inputs, **tensors), want)

        class Module(torch.nn.Module):
            def forward(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor) -> Tensor:
                return kernel.decode_attention(q, k, v, lengths, **options)  # noqa: B023

        program = torch.export.export(Module(), tuple(inputs))
        assert "hornbook.decode_attention" in str(program.graph)
        inputs[3] = inputs[3].clone().fill_(2)
        assert torch.equal(program.module()(*inputs), kernel.decode_attention(*inputs, **options))


@pytest.mark.gpu
def test_a_cuda_graph_holds_it() -> None:
    """With other lengths, keys and pages at each replay."""
    for call in (Call((4000, 300), 2, (16, 2), 128), Call((4000, 300), 2, (16, 2), 128, page=16)):
        inputs, options = call.make(torch.bfloat16, "cuda")
        inputs[1].nan_to_num_(), inputs[2].nan_to_num_()
        kernel.decode_attention(*inputs, **options)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = kernel.decode_attention(*inputs, **options)
        for lengths in ((1, 0), (77, 4000), (4000, 4000)):
            inputs[3].copy_(torch.tensor(lengths))
            graph.replay()
            assert torch.equal(got, kernel.decode_attention(*inputs, **options))


def test_there_is_no_gradient(device: str) -> None:
    inputs, _ = Call((9, 3)).make(torch.float32, device)
    for i in range(3):
        given = [t.clone().requires_grad_() if j == i else t for j, t in enumerate(inputs)]
        for implementation in ("reference", "torch", "fused"):
            with ops.use_kernels("torch", decode_attention=implementation):
                with pytest.raises(ConfigError, match="decode_attention has no gradient: use attention"):
                    ops.decode_attention(*given)
                with torch.no_grad():
                    assert not ops.decode_attention(*given).requires_grad
        with pytest.raises(library.UnsupportedError, match="has no gradient"):
            kernel.decode_attention(*given)


Q, K, N = torch.zeros(2, 1, 4, 16), torch.zeros(2, 9, 2, 16), torch.ones(2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((Q[0], K, K, N), {}, r"q is \(B, T_q, H, D\)"),
        ((Q, K, K[:, 1:], N), {}, r"q is \(B, T_q, H, D\)"),
        ((Q, K[..., :8], K[..., :8], N), {}, "q has 2 sequences of 16 channels, the cache has 2 of 8"),
        ((Q, K[:1], K[:1], N), {}, "q has 2 sequences of 16 channels, the cache has 1"),
        ((Q[:, :, :3], K, K, N), {}, "3 query heads cannot share 2"),
        ((Q.expand(2, 17, 4, 16), K, K, N), {}, "17 new tokens a sequence; the kernel takes up to 16"),
        ((Q[..., :12], K[..., :12], K[..., :12], N), {}, "head_dim is 12"),
        ((Q, K.transpose(1, 3).contiguous().transpose(1, 3), K, N), {}, r"\(stride 1\): a cache is not copied"),
        ((Q, K, K, N[:1]), {}, r"lengths has to be \(2,\)"),
        ((Q, K, K, N.float()), {}, "int32 or int64, and is"),
        ((Q, K, K, N), {"block_table": N[:, None]}, r"block_table has to be \(2, n\) in int32"),
        ((Q, K, K, N), {"block_table": N.int()[:1, None]}, r"block_table has to be \(2, n\) in int32"),
        ((Q, K[:, :0], K[:, :0], N), {"block_table": N.int()[:, None]}, "of pages that hold a key at least"),
        ((Q.half(), K, K, N), {}, "of one dtype"),
        ((Q.double(), K.double(), K.double(), N), {}, "not float64"),
        ((Q, K, K, N), {"block_table": N.int()[:, None].expand(2, 1 << 27)}, f"room for {9 << 27} keys"),
        ((Q, K, K, N), {"window": 0}, "window from 1"),
        ((Q, K, K, N), {"softcap": -1.0}, "softcap above 0"),
        ((Q, K, K, N), {"softcap": NAN}, "softcap above 0"),
        ((Q, K, K, N), {"scale": math.inf}, "finite"),
        ((Q, K, K, N), {"alibi_slopes": torch.ones(3)}, r"alibi_slopes has to be \(4,\) or \(2, 4\)"),
    ],
)
def test_what_the_kernel_refuses(arguments: tuple[Tensor, ...], options: dict[str, Any], words: str) -> None:
    with pytest.raises(library.UnsupportedError, match=words):
        kernel.decode_attention(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((Q[0], K, K, N), {}, r"q is \(B, T_q, H, D\) and the cache \(B, T_max, H_kv, D\)"),
        ((Q, K[:1], K[:1], N), {}, r"q is \(B, T_q, H, D\) and the cache \(B, T_max"),
        ((Q, K[..., :8], K, N), {"block_table": N.int()[:, None]}, r"and the cache \(pages, page_size, H_kv, D\)"),
        ((Q, K, K[:, 1:], N), {}, "v_cache has shape"),
        ((Q[:, :, :3], K, K, N), {}, "3 query heads cannot share 2 key-value heads"),
        ((Q, K, K, N[:1]), {}, "lengths has shape"),
        ((Q, K, K, N.float()), {}, "lengths holds int32 or int64 numbers on cpu, not torch.float32"),
        ((Q, K, K, N), {"block_table": N[:, None]}, "block_table holds int32 numbers"),
        ((Q, K, K, N), {"block_table": N.int()}, "block_table has a row of pages for each of 2 sequences"),
        ((Q, K, K, N), {"window": 0}, "window is how many keys"),
        ((Q, K, K, N), {"softcap": 0.0}, "softcap is a number above 0"),
        ((Q, K, K, N), {"alibi_slopes": torch.ones(3)}, "alibi_slopes has shape"),
    ],
)
@pytest.mark.parametrize("implementation", ["reference", "torch"])
def test_what_all_refuse(arguments: Any, options: dict[str, Any], words: str, implementation: str) -> None:
    with ops.use_kernels(implementation), pytest.raises(ConfigError, match=words):
        ops.decode_attention(*arguments, **options)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_step_of_a_model_is_the_same_at_every_position(position: Any, device: str) -> None:
    """What PyTorch is told to do in one step is recorded, and done again for the next tokens: the cache itself knows
    how far it is, as it must where a CUDA graph repeats a step."""
    torch.manual_seed(0)
    fields = {"norm": "rmsnorm", "n_kv_head": 1} if position == "rope" else {}
    config = GPTConfig(64, 32, n_layer=2, n_head=2, d_model=32, position=position, init_std=0.2, **fields)
    model = GPT(config).to(device).eval()
    ids = torch.randint(64, (2, 24), device=device)
    with torch.no_grad(), ops.use_kernels("torch", decode_attention="fused"):
        want = model(ids)
        for chunk in (1, 3):
            cache = model.new_cache(2)
            model(ids[:, :18], cache=cache)  # too many for the kernel
            with harness.launching("decode_attention_split"):
                got = [model(ids[:, 18 : 18 + chunk], cache=cache)]
            step = make_fx(functools.partial(model, cache=cache))(ids[:, :chunk])
            cache.truncate(18 + chunk)
            for at in range(18 + chunk, 24, chunk):
                got.append(step(ids[:, at : at + chunk]))
            torch.testing.assert_close(torch.cat(got, 1), want[:, 18:], atol=1e-5, rtol=1e-5)
            assert cache.lengths.tolist() == [24] * 2
        cache.truncate(20)
        cache.select(torch.tensor([1, 0], device=device))
        torch.testing.assert_close(model(ids[[1, 0], 20:22], cache=cache), want[[1, 0], 20:22], atol=1e-5, rtol=1e-5)
        with pytest.raises(ConfigError, match="room for 32 tokens, not 33"):
            cache.places(11)


@pytest.mark.skipif(not interpreter.is_on(), reason="needs the interpreter")
@pytest.mark.parametrize(
    ("choice", "head_dim", "launched"),
    [
        ({"": "fused"}, 16, True),
        ({"": "torch", "decode_attention": "fused"}, 16, True),
        ({"": "fused", "attention": "torch"}, 16, False),  # whoever wants other attention wants it while decoding, too
        ({"": "fused", "attention": "torch"}, 12, False),
        ({"": "fused", "decode_attention": "torch"}, 16, False),
    ],
)
def test_who_reads_the_cache(choice: dict[str, str], head_dim: int, launched: bool) -> None:
    config = GPTConfig(vocab_size=9, context_length=8, n_layer=1, n_head=1, d_model=16, head_dim=head_dim)
    with torch.no_grad(), ops.use_kernels(choice.pop(""), **choice):
        model = GPT(config)
        before = library.launches["decode_attention_split"]
        model(torch.tensor([[1]]), cache=model.new_cache())
        assert (library.launches["decode_attention_split"] > before) == launched


def test_a_cache_takes_what_autocast_makes(device: str) -> None:
    """Keys and values of another format than the cache's are rounded to it, whichever way they come in."""
    one, other = (KVCache(1, 2, 4, 1, 16, dtype=torch.bfloat16, device=device) for _ in range(2))
    k, v = torch.randn(2, 3, 1, 16, device=device), torch.randn(2, 3, 1, 16, device=device)
    one.append(0, k, v)
    other.put(0, k, v, other.places(3))
    assert torch.equal(one.k, other.k)
    assert torch.equal(one.v, other.v)


# Mistakes that are planted into the kernel's source, which must not get through `check`.

PLANTS = {
    "a later key is seen": ("(behind >= 0)", "(behind >= -1)"),
    "the own key is not seen": ("(behind >= 0)", "(behind >= 1)"),
    "a window too wide": ("(behind < window)", "(behind <= window)"),
    "a window that begins too late": ("end - T_q - window + 1", "end - T_q - window + 9"),
    "queries of a sequence in the wrong place": ("position = end - T_q + t", "position = end - 1 - t"),
    "heads of another key-value head": ("h_kv * group + m_row % group", "h_kv + m_row % group * H_kv"),
    "what lies beyond a length is read": ("(j < stop)", "(j < room)"),
    "the part of a former maximum is kept": ("acc_0 * alpha[:, None]", "acc_0"),
    "the second part of channels is forgotten": ("TO)[None, :], other=0.0)", "64)[None, :], other=0.0)"),
    "a page too late": ("page_of(Table, at + BLOCK_N,", "page_of(Table, at,"),
    "rows of a page by the key's number": ("(j % PAGE)", "(j)"),
    "slopes for the wrong head": ("Slopes + b * slopes_b + h,", "Slopes + b * slopes_b + h_kv,"),
    "a cap on the scaled score twice": ("tanh(s * (scale / softcap))", "tanh(s * (scale / softcap / 2))"),
    "splits that overlap": ("first + split * share,", "first + split * share - split,"),
    "splits that are not weighed": ("w = tl.exp2(each - m_safe)", "w = tl.where(there, 1.0, 0.0)"),
    "logarithms to base e": ("m + tl.log2(sums)", "m + tl.log(sums)"),
    "the last split is forgotten": ("there = at + s < used", "there = at + s < tl.maximum(used - 1, 1)"),
}  # fmt: skip
CATCHERS = [
    Call((100, 33), 5, (6, 2), 96, page=6, options={"window": 40}),
    Call((100, 5), 3, (2, 1), 32, slopes=2, options={"softcap": 2.0}),
    Call((100, 50), 1, (4, 2), 32),
]


def planted(before: str, after: str, folder: Path) -> ModuleType:
    source = (Path(hornbook.kernels.__path__[0]) / "decode_attention.py").read_text(encoding="utf-8")
    assert before in source, f"decode_attention.py no longer says {before!r}: plant the mistake where it now belongs"
    name = f"planted_{abs(hash((before, after)))}"
    source = re.sub(r'(library\.operator\(\s*")', rf"\1{name}_", source.replace(before, after))
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return load(folder / f"{name}.py")


def is_caught(module: ModuleType) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        cut(3, module, patch)
        for call in CATCHERS:
            try:
                check(call, torch.float32, DEVICE, module.decode_attention, draws=2)
            except (AssertionError, interpreter_error()):
                return True
    return False


@pytest.mark.once
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_mistake_is_caught(plant: str, tmp_path: Path) -> None:
    assert is_caught(planted(*PLANTS[plant], tmp_path))


@pytest.mark.once
def test_planting_as_such_breaks_nothing(tmp_path: Path) -> None:
    assert not is_caught(planted("from . import library", "from . import library  # the same", tmp_path))
