"""The fast forward kernels of attention: the same numbers as the reference, the order of their tiles, their barriers,
and what a compiler makes of them."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
import triton
from hornbook import native
from hornbook.benchmarks import aot, sass
from hornbook.kernels import attention_gluon, attention_pipelined, attention_schedule, interpreter, library
from hornbook.kernels.attention_table import Choice
from hornbook.reference.attention import attention as reference
from torch import Tensor

from .gluon_machine import Descriptor, Machine, MachineError, Pointer
from .harness import launching, poisoned, ulp, within_bounds

if interpreter.is_on():
    interpreter.switch_on()
on_a_cpu = pytest.mark.skipif(not interpreter.is_on(), reason="the interpreter is off: kernels run on the GPU")


def tensors(
    B: int, T_q: int, T_k: int, H: int, H_kv: int, D: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """q is a view of a tensor that holds more heads, as of a fused projection; k and v lie side by side in another."""
    random = torch.Generator().manual_seed(seed)
    wide = torch.randn(B, T_q, H + 3, D, generator=random).to(device, dtype)
    kv = torch.randn(B, T_k, 2, H_kv, D, generator=random).to(device, dtype)
    return wide[:, :, 1 : H + 1], kv[:, :, 0], kv[:, :, 1]


def compare(
    forward: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, causal: bool, choice: Choice
) -> None:
    """No more than 1.5 × the error of PyTorch's attention in the same format and a unit in the last place; outputs hold
    NaN before."""
    scale = 0.7 / math.sqrt(q.shape[-1])
    with poisoned(), within_bounds():
        o, lse = forward(q, k, v, scale, causal, choice)
    assert o.shape == q.shape
    assert o.is_contiguous()
    assert o.dtype == q.dtype
    wide = (q.double(), k.double(), v.double())
    want, want_lse = reference(*wide, causal=causal, scale=scale, return_lse=True)
    peer = native.attention(q, k, v, causal=causal, scale=scale)
    assert isinstance(peer, Tensor)
    allowed = 1.5 * (peer.double() - want).abs().max().item() + ulp(q.dtype, want.abs().max().item())
    assert (o.double() - want).abs().max().item() <= allowed
    assert torch.equal(lse.isinf(), want_lse.isinf())
    assert torch.allclose(lse.double(), want_lse, rtol=1e-5, atol=1e-5)
    empty = max(0, q.shape[1] - k.shape[1]) if causal else 0
    assert not o[:, :empty].any(), "a query that sees nothing gets 0"


LENGTHS = [(1, 1), (2, 2), (63, 63), (64, 64), (65, 65), (127, 127), (200, 200), (1, 200), (65, 127), (200, 63)]


@on_a_cpu
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize(("T_q", "T_k"), LENGTHS)
@pytest.mark.parametrize("variant", attention_pipelined.VARIANTS)
def test_numbers(variant: str, T_q: int, T_k: int, causal: bool) -> None:
    dtype = (torch.float16, torch.bfloat16)[(T_q + T_k + causal) % 2]
    q, k, v = tensors(1, T_q, T_k, 2, 1, 64, dtype)
    with launching("attention_forward_pipelined"):
        compare(attention_pipelined.forward, q, k, v, causal, Choice(variant, 64, 32, 4))


@on_a_cpu
@pytest.mark.parametrize("D", [16, 40, 72, 128])
@pytest.mark.parametrize("variant", attention_pipelined.VARIANTS)
def test_heads_of_all_widths_that_share_keys(variant: str, D: int) -> None:
    q, k, v = tensors(2, 40, 70, 4, 2, D, torch.bfloat16)
    compare(attention_pipelined.forward, q, k, v, True, Choice(variant, 32, 64, 4))


@on_a_cpu
def test_what_is_refused() -> None:
    q, k, v = tensors(1, 8, 8, 2, 1, 64, torch.bfloat16)
    assert attention_pipelined.refusal(q, k, v) is None
    assert "fp16 and bf16" in (attention_pipelined.refusal(q.float(), k.float(), v.float()) or "")
    assert "steps of 8" in (attention_pipelined.refusal(*(t[..., :20] for t in (q, k, v))) or "")
    assert "empty" in (attention_pipelined.refusal(q, k[:, :0], v[:, :0]) or "")
    assert "interpreter" in (attention_gluon.refusal(q, k, v) or "")
    with pytest.raises(library.UnsupportedError, match="16 bytes"):
        attention_pipelined.forward(q[..., 1:33], k[..., :32], v[..., :32], 1.0, True, Choice("tma", 64, 32, 4))


@on_a_cpu
@pytest.mark.parametrize("programs", [1, 3, 7])
def test_few_programs_take_all_blocks_in_turn(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits as of one program a block; as many programs as there are multiprocessors, or twice as many."""
    q, k, v = tensors(2, 100, 90, 2, 1, 32, torch.bfloat16)
    want = attention_pipelined.forward(q, k, v, 0.2, True, Choice("carry_p", 32, 32, 8))
    monkeypatch.setattr(library, "multiprocessors", lambda device: programs)
    grids: list[tuple[int, ...]] = []
    launch = library.launch
    monkeypatch.setattr(library, "launch", lambda *given, **how: (grids.append(given[1]), launch(*given, **how)))
    for warps in (8, 4):
        with poisoned():
            got = attention_pipelined.forward(q, k, v, 0.2, True, Choice("carry_p_persistent", 32, 32, warps))
        assert all(map(torch.equal, got, want))
    assert grids == [(programs,), (min(16, 2 * programs),)]
    compare(attention_pipelined.forward, q, k, v, False, Choice("carry_p_persistent", 32, 32, 8))


@on_a_cpu
def test_whose_allocator_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a kernel starts that makes descriptors, PyTorch's memory; before and after, whatever it was, in any thread:
    a thread begins without."""
    from triton.runtime import _allocation

    q, k, v = tensors(1, 8, 8, 1, 1, 16, torch.bfloat16)
    seen: list[Any] = []
    launch = library.launch

    def noting(*args: Any, **options: Any) -> None:
        seen.append(_allocation._allocator.get())
        launch(*args, **options)

    monkeypatch.setattr(library, "launch", noting)

    def theirs(size: int, alignment: int, stream: int | None) -> Tensor:
        raise AssertionError("nobody asked for it")

    def run() -> None:
        before = _allocation._allocator.get()
        for variant in ("specialized", "tma"):
            attention_pipelined.forward(q, k, v, 1.0, True, Choice(variant, 64, 32, 4))
            assert _allocation._allocator.get() is before

    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    contextvars.copy_context().run(lambda: (triton.set_allocator(theirs), run()))
    ours = attention_pipelined._scratch
    assert [found is ours for found in seen] == [True, False] * 2
    assert seen[3] is theirs


# The order of tiles


@pytest.mark.parametrize("causal", [True, False])
def test_every_tile_has_its_place_and_the_longest_come_first(causal: bool) -> None:
    for blocks, heads, together in ((1, 1, 1), (5, 6, 4), (3, 8, 8), (4, 7, 2), (2, 3, 9)):
        order = [attention_schedule.place(t, blocks, heads, together, causal) for t in range(blocks * heads)]
        assert sorted(order) == [(b, h) for b in range(blocks) for h in range(heads)]
        for start in range(0, heads, together):
            group = [b for b, h in order if start <= h < start + together]
            assert group == sorted(group, reverse=causal)
        groups = [h // together for _, h in order]
        assert groups == sorted(groups)


@pytest.mark.parametrize(("block_m", "block_n"), [(64, 64), (128, 64), (64, 128), (32, 16)])
def test_which_tiles_are_whole_and_which_are_seen(block_m: int, block_n: int) -> None:
    lengths = (1, 15, 16, 17, 63, 64, 65, 127, 128, 130, 257)
    for T_q in lengths:
        for T_k in lengths:
            for causal in (True, False):
                i, j = torch.arange(T_q)[:, None], torch.arange(T_k)[None, :]
                seen = j <= i + T_k - T_q if causal else (i >= 0) & (j >= 0)
                for block in range(-(-T_q // block_m)):
                    rows = seen[block * block_m : (block + 1) * block_m]
                    whole, end = attention_schedule.tiles(block, T_q, T_k, causal, block_m, block_n)
                    for t in range(-(-T_k // block_n)):
                        part = rows[:, t * block_n : (t + 1) * block_n]
                        if t < whole:
                            assert part.all(), "a tile that is not masked is seen in whole"
                            assert part.shape[1] == block_n
                        if t >= end:
                            assert not part.any(), "a tile that is left out is not seen"
                    useless = [t for t in range(end) if not rows[:, t * block_n : (t + 1) * block_n].any()]
                    assert not useless or (end == 1 and not rows.any()) or len(rows) < block_m
                    assert 0 <= whole <= end


def test_heads_that_run_together_share_keys_and_fit_the_cache() -> None:
    assert attention_schedule.fit(64, 8, 4096, 128, 2, 24 << 20) == 64
    assert attention_schedule.fit(64, 8, 65536, 128, 2, 24 << 20) == 8
    assert attention_schedule.fit(32, 1, 8192, 128, 2, 24 << 20) == 6
    assert attention_schedule.fit(32, 1, 1 << 20, 128, 2, 24 << 20) == 1


# Gluon, on a machine in Python


def on_the_machine(
    T_q: int, T_k: int, causal: bool, block_n: int, stages: int, consumers: int, together: bool, seed: int,
    change: Callable[[dict[str, Any]], None] = lambda names: None,
) -> None:  # fmt: skip
    q, k, v = tensors(1, T_q, T_k, 2, 1, 16, torch.bfloat16, seed=seed)
    o, lse = torch.full_like(q, float("nan")), torch.full((1, 2, T_q), float("nan"))
    descriptors = [Descriptor(t.transpose(1, 2)) for t in (q, k, v, o)]
    for program in range(2 * -(-T_q // (64 * consumers))):
        machine = Machine(1000 * seed + program)
        machine.program = program
        names = machine.translate(attention_gluon)
        change(names)
        names["attention_forward_gluon"](
            *descriptors, Pointer(lse), T_q, T_k, 2, 1, 2, 2, 0.2 * math.log2(math.e), causal, 16, block_n, stages,
            together, consumers, 0, 0,
        )  # fmt: skip
    want, want_lse = reference(q.double(), k.double(), v.double(), causal=causal, scale=0.2, return_lse=True)
    assert (o.double() - want).abs().max().item() < 0.02
    assert torch.allclose(lse.double(), want_lse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("together", [False, True], ids=["in turn", "together"])
@pytest.mark.parametrize("stages", [2, 3, 4])
@pytest.mark.parametrize("n", range(1, 10))
def test_the_barriers_in_every_order(n: int, stages: int, together: bool) -> None:
    """Rings of buffers that are filled 1 to 9 times in all, by chance in different orders."""
    for seed in range(3):
        on_the_machine(33, 16 * n - 5, False, 16, stages, 2 + seed % 2, together, seed)


@pytest.mark.parametrize(("T_q", "T_k"), [(1, 1), (64, 64), (130, 130), (100, 230), (200, 70), (140, 1)])
def test_the_kernel_in_gluon_computes_attention(T_q: int, T_k: int) -> None:
    for causal, consumers, together in ((True, 2, False), (True, 3, True), (False, 2, True)):
        on_the_machine(T_q, T_k, causal, 32, 2, consumers, together, T_q)


def _ring_of_one_parity(names: dict[str, Any]) -> None:
    names["ring"] = lambda j, stages: (j % stages, 0)


def _empty_after_one_consumer(names: dict[str, Any]) -> None:
    init = names["mbarrier"].init
    names["mbarrier"].init = lambda barrier, count: init(barrier, 1)


def _no_wait_before_a_copy(names: dict[str, Any]) -> None:
    wait = names["mbarrier"].wait
    inner = names["produce"]

    def produce(*arguments: Any) -> None:
        names["mbarrier"].wait = lambda barrier, phase: None
        inner(*arguments)

    names["produce"], names["mbarrier"].wait = produce, wait


def _no_fence(names: dict[str, Any]) -> None:
    names["fence_async_shared"] = lambda: None


def _fewer_bytes(names: dict[str, Any]) -> None:
    expect = names["mbarrier"].expect
    names["mbarrier"].expect = lambda barrier, size: expect(barrier, size // 2)


@pytest.mark.parametrize(
    "mistake", [_ring_of_one_parity, _empty_after_one_consumer, _no_wait_before_a_copy, _no_fence, _fewer_bytes]
)
def test_the_machine_notices(mistake: Callable[[dict[str, Any]], None]) -> None:
    def some() -> None:
        for seed in range(8):
            on_the_machine(130, 150, False, 16, 2, 2, seed % 2 == 0, seed, mistake)

    with pytest.raises((MachineError, AssertionError)):
        some()


# What a compiler makes of them


@pytest.mark.slow
def test_they_compile_for_an_h100() -> None:
    """Without spills (Triton 3.6; newer ones may take a few bytes), with tensor cores, within shared memory; and beside
    the products are the exponentials, where the order allows it."""

    rows = sass.compile_all("--head-dims", "64,128")
    assert {row["variant"] for row in rows} == {*attention_pipelined.VARIANTS, *attention_gluon.VARIANTS}
    most = 0 if triton.__version__.startswith("3.6") else 112
    for row in rows:
        name = {key: row[key] for key in ("variant", "block_m", "block_n", "warps", "stages", "head_dim", "form")}
        assert "error" not in row, (name, row.get("error"))
        assert row["spilled"] <= most, (name, row["spilled"])
        assert row["products"], name
        assert row["shared"] <= aot.TARGETS[90], name
        assert row["exponentials"], f"{name}: no loop with products and exponentials was found"
        if row["variant"] in ("specialized", "gluon", "gluon_together"):
            assert row["threads"] == (128 * (row["block_m"] // 64 + 1)), f"{name}: warps were not specialised"
        if row["variant"].startswith("carry_p") or (row["variant"] == "gluon" and row["block_m"] == 128):
            assert row["beside"] >= 0.6 * row["exponentials"], (name, row["loops"])
        if row["variant"] == "tma":
            assert not row["beside"], (name, row["loops"])
    carried = [row["beside"] for row in rows if row["variant"] == "carry_qk" and row["head_dim"] == 64]
    assert all(carried), "scores of the next tile are issued before the softmax of this one"


def test_exponentials_between_a_product_and_its_wait_are_counted() -> None:
    def code(*lines: str) -> str:
        return "\n".join(f"  /*{16 * i:04x}*/  {line} ;  /* 0x0 */" for i, line in enumerate(lines))

    loop = code(
        "MUFU.EX2 R0, R1", "HGMMA.64x64x16.F32.BF16 R8, gdesc[UR4], R8, gsb0", "MUFU.EX2 R0, R1", "MUFU.EX2 R2, R1",
        "WARPGROUP.DEPBAR.LE gsb0, 0x0", "@!P0 BRA 0x90", "MUFU.EX2 R3, R1", "@P0 BRA 0x10", "EXIT", "BRA 0x90",
    )  # fmt: skip
    assert sass.overlap(loop) == {"exponentials": 3, "beside": 2, "loops": [(3, 2)]}
    carried = code(
        "MOV R1, R2", "MUFU.EX2 R0, R1", "WARPGROUP.DEPBAR.LE gsb0, 0x0", "MUFU.EX2 R0, R1",
        "HGMMA.64x64x16.F32.BF16 R8, gdesc[UR4], R8, gsb0", "@P0 BRA 0x10", "EXIT",
    )  # fmt: skip
    assert sass.overlap(carried)["loops"] == [(2, 1)], "what is under way at the end of a round is in the next one"


# On a GPU


GPU_CASES = [
    (attention_pipelined, D, choice) for D, some in attention_pipelined.CANDIDATES.items() for choice in some
] + [(attention_gluon, D, choice) for D, some in attention_gluon.CANDIDATES.items() for choice in some]


@pytest.mark.gpu
@pytest.mark.parametrize(("module", "D", "choice"), GPU_CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_numbers_on_a_gpu(module: Any, D: int, choice: Choice) -> None:
    for B, T_q, T_k, H, H_kv, causal in (
        (2, 1024, 1024, 12, 12, True), (1, 4096, 4096, 8, 2, True), (1, 2000, 2000, 4, 4, False),
        (2, 300, 1111, 6, 3, True), (1, 700, 129, 2, 1, True), (3, 1, 555, 4, 1, True),
    ):  # fmt: skip
        for dtype in (torch.bfloat16, torch.float16):
            q, k, v = tensors(B, T_q, T_k, H, H_kv, D, dtype, "cuda")
            if (reason := module.refusal(q, k, v)) is not None:
                pytest.skip(reason)
            compare(module.forward, q, k, v, causal, choice)


@pytest.mark.gpu
@pytest.mark.parametrize(("module", "D", "choice"), GPU_CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_the_same_bits_every_time(module: Any, D: int, choice: Choice) -> None:
    """Twenty times: a barrier that is wrong is so by chance."""
    q, k, v = tensors(4, 1500, 1500, 16, 4, D, torch.bfloat16, "cuda")
    if (reason := module.refusal(q, k, v)) is not None:
        pytest.skip(reason)
    first = module.forward(q, k, v, 0.1, True, choice)
    for _ in range(19):
        assert all(map(torch.equal, module.forward(q, k, v, 0.1, True, choice), first))
