"""The kernel that draws tokens, against the reference in float64.

A draw is right if the number it was made with lies where the drawn token is on the way from 0 to 1, give or take 1e-5:
the probabilities up to the token, added up in float64, are above the number less 1e-5, and those before it are not
above the number plus 1e-5. The numbers are chosen near the ends of tokens' parts, 2e-5 inside, so that one token too
many or too few anywhere moves a draw, unless it weighs next to nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hornbook as hb
import hornbook.kernels
import pytest
import torch
from hornbook import ops
from hornbook.kernels import interpreter, library
from hornbook.kernels import sample_logits as kernel
from hornbook.reference.sample_logits import probabilities
from hornbook.reference.sample_logits import sample_logits as reference
from torch import Tensor
from torch import library as operators

from . import harness
from .test_harness import DEVICE, interpreter_error, load

TOLERANCE = 1e-5
INSIDE = 2e-5
MOST = 1 - 2**-24  # the largest number below 1
Draw = Callable[..., Tensor]

# BLOCK, CAPACITY, warps for all rows: these take the ways that rows of tens of thousands take otherwise.
PATHS: dict[str, tuple[int, int, int] | None] = {
    "as launched": None,
    "short, chunks": (16, 64, 1),
    "short or long": (16, 16, 1),
    "long": (16, 2, 1),
}
FILTERS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 20},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"min_p": 0.1},
    {"top_k": 12, "min_p": 0.2},
    {"top_p": 0.9, "min_p": 0.05},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.02},
]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cpu" and not interpreter.is_on():
        pytest.skip("kernels run on the GPU here, and the interpreter is off")
    return request.param


@pytest.fixture(autouse=True)
def _within_bounds() -> Iterator[None]:
    """Nothing is read or written outside of the tensors, the scratch among them."""
    with harness.within_bounds():
        yield


@pytest.fixture(params=PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    take(request.param, kernel, monkeypatch)
    return request.param


def take(path: str, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if (shape := PATHS[path]) is not None:
        monkeypatch.setattr(module, "TABLE", {module.MOST: shape})


def some_logits(V: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random ones, some with many equals, and some of which many are impossible; (V,) each."""
    random = torch.Generator().manual_seed(V)
    x = [2 * torch.randn(V, generator=random) for _ in range(3)]
    x[1] = x[1].round()
    x[2][torch.rand(V, generator=random) < 0.6] = -math.inf
    return [row.to(dtype) for row in x]


def is_undecided(
    x: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> bool:
    """Whether rounding may decide on what stays, of what weighs enough to matter."""
    if temperature == 0:
        return False
    x = x.double().sort(descending=True).values
    x = x[x >= x[min(top_k, len(x)) - 1]] if top_k else x
    w = ((x - x[0]) / max(temperature, 1e-30)).exp()
    counts = (w / w.sum() > 2e-6) & (x < x[0])
    first = torch.searchsorted(-x, -x)  # of equals
    before = (w.cumsum(0) - w)[first] / w.sum()
    near = (before - top_p).abs() < 2e-6 if top_p < 1 else torch.zeros_like(counts)
    near |= (w - min_p).abs() < 1e-5 * min_p
    return bool((near & counts).any())


def trials(p: Tensor, most: int) -> Tensor:
    """Numbers a little inside the parts of up to ``most`` tokens, and the smallest and the largest one."""
    end = p.cumsum(0)
    at = torch.nonzero(p > 2 * INSIDE)[:, 0]
    at = at[torch.linspace(0, len(at) - 1, min(most, len(at))).long()]
    inside = torch.cat((end[at] - p[at] + INSIDE, end[at] - INSIDE))
    return torch.cat((torch.tensor([0.0, MOST], dtype=torch.float64), inside)).clamp(0, MOST).float()


def check(draw: Draw, x: Tensor, how: dict[str, Any], most: int = 4) -> None:
    """Draws from the row ``x`` (V,) are right. The same rows in one tensor: a stride of 0."""
    assert not is_undecided(x.cpu(), **how), "rounding decides here: take other logits"
    p = probabilities(x.double().cpu()[None], **how)[0]
    u = trials(p, most)
    tokens = draw(x.expand(len(u), -1), u.to(x.device), **how).cpu()
    assert tokens.dtype == torch.int64
    assert (tokens >= 0).all()
    assert (tokens < len(x)).all()
    end = p.cumsum(0)[tokens]
    assert (p[tokens] > 0).all(), "a token was drawn that should not have stayed"
    off = torch.maximum(end - p[tokens] - u.double(), u.double() - end)
    assert off.max() <= TOLERANCE, f"off by {off.max():.2g}"


@pytest.mark.parametrize("how", FILTERS, ids=str)
def test_every_draw_is_right(how: dict[str, Any], path: str, device: str) -> None:
    """All number formats on a GPU; in the interpreter, which is slow, another one for each way."""
    one = {"as launched": torch.float16, "short, chunks": torch.float32}.get(path, torch.bfloat16)
    for dtype in harness.DTYPES if device == "cuda" else [one]:
        before = library.launches["sample_logits_row"]
        for x in some_logits(37, dtype):
            check(kernel.sample_logits, x.to(device), how, most=50 if device == "cuda" else 3)
        assert library.launches["sample_logits_row"] == before + 3


@pytest.mark.parametrize("V", [1, 2, 15, 16, 17, 33])
def test_widths(V: int, path: str, device: str) -> None:
    for x in some_logits(V, torch.float16)[:2]:
        check(kernel.sample_logits, x.to(device), {"top_k": 3, "top_p": 0.7}, most=2)


@pytest.mark.parametrize(
    ("how", "sharpness"),
    [
        ({"temperature": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.05}, 1.0),
        ({"top_p": 0.9}, 4.0),  # few tokens: the short way
        ({"top_p": 0.9}, 1.0),  # tens of thousands: the long way
        ({"top_k": 9000, "top_p": 0.5}, 1.0),
        ({"min_p": 0.01}, 2.0),
        ({}, 1.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_vocabulary(how: dict[str, Any], sharpness: float, dtype: torch.dtype, device: str) -> None:
    x = (sharpness * torch.randn(50257, generator=torch.Generator().manual_seed(5))).to(dtype)
    check(kernel.sample_logits, x.to(device), how, most=1)


@pytest.mark.parametrize("V", [2048, 2049, 3000, 4096, 4097, 8192, 8193])
def test_borders_of_the_table(V: int, device: str) -> None:
    """Without a filter every lane that has a column is read again, and one row has no other's scratch behind it."""
    x = torch.randn(V, generator=torch.Generator().manual_seed(V)).to(device)
    token = kernel.sample_logits(x[None], torch.tensor([0.5], device=device))
    end = x.double().softmax(0).cumsum(0)
    assert abs(float(end[token]) - 0.5) < 0.02
    check(kernel.sample_logits, x, {"top_p": 0.9, "min_p": 1e-3}, most=1)


@pytest.mark.parametrize("how", [FILTERS[0], *FILTERS[-2:]], ids=str)
def test_equal_logits(how: dict[str, Any], path: str, device: str) -> None:
    check(kernel.sample_logits, torch.full((40,), 1.5, device=device), how, most=2)


def draws(x: list[float], u: list[float], device: str, **how: Any) -> list[int]:
    rows = torch.tensor([x] * len(u), dtype=torch.bfloat16, device=device)
    return kernel.sample_logits(rows, torch.tensor(u, device=device), **how).tolist()


INF, NAN = math.inf, math.nan


@pytest.mark.parametrize(
    ("x", "how", "expected"),  # for the numbers 0, 0.3, 0.6 and the largest
    [
        ([-INF] * 20 + [3.0] + [-INF] * 20, {}, [20] * 4),
        ([-INF] * 20 + [3.0] + [-INF] * 20, {"top_k": 5, "top_p": 0.5, "min_p": 0.5}, [20] * 4),
        ([1.0] + [0.0] * 30 + [2.0, 2.0, 1.0], {"temperature": 0.0}, [31] * 4),
        ([1.0] + [0.0] * 30 + [2.0, 2.0, 1.0], {"temperature": 0.0, "top_k": 9, "top_p": 0.1}, [31] * 4),
        ([1.0] + [0.0] * 30 + [2.0, 2.0, 1.0], {"temperature": 1e-30}, [31, 31, 32, 32]),
        ([1.0] + [0.0] * 30 + [2.0, 2.0, 1.0], {"top_k": 1}, [31, 31, 32, 32]),
        ([1.0] + [0.0] * 30 + [2.0, 2.0, 1.0], {"top_p": 1e-30}, [31, 31, 32, 32]),
        ([1.0] + [0.0] * 30 + [2.0, 2.0, 1.0], {"min_p": 1.0}, [31, 31, 32, 32]),
        ([0.0] + [-1.0] * 18 + [-0.0], {"top_k": 1}, [0, 0, 19, 19]),  # 0 and -0 are equal
        ([3.0] * 40, {"temperature": 1e30}, [0, 12, 24, 39]),
        ([3e38, 1.0, -3e38, *[0.0] * 37], {"temperature": 1e37, "top_p": 0.99}, [0] * 4),
        ([5.0, -5.0, *[0.0] * 18, -INF], {"temperature": 1e30}, [0, 6, 12, 19]),
        ([-3.0] * 20, {"top_k": 10**9}, [0, 6, 12, 19]),
        ([0.0, NAN, -INF, *[NAN] * 15, 0.0], {}, [0, 0, 18, 18]),
        ([0.0, NAN, -INF, *[NAN] * 15, 0.0], {"top_k": 2, "top_p": 0.9}, [0, 0, 18, 18]),
        ([NAN] * 20, {}, [0] * 4),
        ([-INF] * 20, {}, [0] * 4),
        ([-INF] * 20, {"top_k": 3, "top_p": 0.5, "min_p": 0.1}, [0] * 4),
        ([-INF] * 20, {"top_p": 0.5, "min_p": 0.1}, [0] * 4),
        ([-INF] * 20, {"temperature": 0.0}, [0] * 4),
        ([1.0, *[0.0] * 17, INF, 5.0, INF], {}, [18, 18, 20, 20]),
        ([1.0, *[0.0] * 17, INF, 5.0, INF], {"top_k": 3, "top_p": 0.7, "min_p": 0.2}, [18, 18, 20, 20]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")  # NumPy, of inf - inf
def test_odd_rows(x: list[float], how: dict[str, Any], expected: list[int], path: str, device: str) -> None:
    assert draws(x, [0.0, 0.3, 0.6, MOST], device, **how) == expected


@pytest.mark.parametrize(
    "how", [{}, {"temperature": 0.0}, {"top_k": 3}, {"top_p": 0.6}, {"min_p": 0.2}, {"top_k": 5, "top_p": 0.9}], ids=str
)
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered:RuntimeWarning")
def test_what_is_no_number_is_the_same_to_the_reference(how: dict[str, Any], device: str) -> None:
    rows = [
        [0.0, NAN, -INF, 2.0, NAN, 1.0, -INF],
        [NAN] * 6 + [-3.0],
        [1.0, 0.0, INF, 5.0, INF, NAN, -INF],
        [INF] * 7,
        [NAN] * 7,
        [-INF] * 7,
        [-INF, NAN, -INF, -INF, NAN, -INF, -INF],
    ]
    for u in (0.0, 0.3, 0.7, MOST):
        x, uniform = torch.tensor(rows), torch.full((len(rows),), u)
        got = kernel.sample_logits(x.to(device), uniform.to(device), **how)
        assert got.tolist() == reference(x, uniform, **how).tolist()


def test_a_number_outside_does_no_harm(path: str, device: str) -> None:
    for token in draws([0.0] * 40, [-1.0, 1.0, 7.0, INF, NAN], device):
        assert 0 <= token < 40


def test_rows_may_lie_anywhere(path: str, device: str) -> None:
    """Gaps between rows, as of a sequence's last logits, gaps between columns, and no rows."""
    random = torch.Generator().manual_seed(8)
    x, u = torch.randn(3, 37, generator=random).bfloat16().to(device), torch.rand(3, generator=random).to(device)
    how = {"top_k": 20, "top_p": 0.9}
    want = kernel.sample_logits(x, u, **how)
    assert torch.equal(want.cpu(), reference(x.cpu(), u.cpu(), **how))
    sequence = x.new_full((3, 3, 37), math.inf)
    sequence[:, -1] = x
    gaps = x.new_full((3, 74), math.inf)
    gaps[:, ::2] = x
    for same in (sequence[:, -1], gaps[:, ::2], x.T.contiguous().T):
        assert torch.equal(kernel.sample_logits(same, u, **how), want)
    spread = torch.zeros(6, device=device)
    spread[::2] = u
    assert torch.equal(kernel.sample_logits(x, spread[::2], **how), want)
    assert kernel.sample_logits(x[:0], u[:0]).shape == (0,)


def test_the_same_numbers_draw_the_same_tokens(path: str, device: str) -> None:
    """Every time, and whatever other rows there are."""
    random = torch.Generator().manual_seed(9)
    x, u = torch.randn(3, 37, generator=random).bfloat16().to(device), torch.rand(3, generator=random).to(device)
    how = {"temperature": 0.9, "top_k": 15, "top_p": 0.9, "min_p": 0.02}
    first = kernel.sample_logits(x, u, **how)
    for _ in range(20 if device == "cuda" else 2):
        assert torch.equal(kernel.sample_logits(x, u, **how), first)
    alone = [kernel.sample_logits(x[i : i + 1], u[i : i + 1], **how) for i in range(len(x))]
    assert torch.equal(torch.cat(alone), first)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", harness.DTYPES, ids=str)
@pytest.mark.parametrize("how", FILTERS, ids=str)
def test_vocabularies_on_a_gpu(how: dict[str, Any], dtype: torch.dtype) -> None:
    for V in (128_256, 262_149):
        x = torch.randn(V, generator=torch.Generator().manual_seed(6)).to(dtype)
        if not is_undecided(x, **how):
            check(kernel.sample_logits, x.cuda(), how, most=50)


# PyTorch's side of it.


def test_it_is_an_operator(device: str) -> None:
    x, u = torch.randn(2, 20, device=device).bfloat16(), torch.rand(2, device=device)
    operators.opcheck(torch.ops.hornbook.sample_logits.default, (x, u, 0.9, 5, 0.8, 0.1))
    torch._dynamo.reset()
    how = {"temperature": 0.9, "top_k": 5, "top_p": 0.8, "min_p": 0.1}
    backend = "inductor" if device == "cuda" else "aot_eager"  # the latter needs no C++ compiler
    compiled = torch.compile(lambda x, u: kernel.sample_logits(x, u, **how) + 0, fullgraph=True, backend=backend)
    with harness.launching("sample_logits_row"):
        assert torch.equal(compiled(x, u), kernel.sample_logits(x, u, **how))

    class Module(torch.nn.Module):
        def forward(self, x: Tensor, u: Tensor) -> Tensor:
            return kernel.sample_logits(x, u, **how)

    program = torch.export.export(Module(), (x, u))
    assert "hornbook.sample_logits" in str(program.graph)
    assert torch.equal(program.module()(x, u), kernel.sample_logits(x, u, **how))


def test_there_is_no_gradient(device: str) -> None:
    x = torch.randn(3, 20, device=device, requires_grad=True)
    assert not kernel.sample_logits(x, torch.rand(3, device=device)).requires_grad


@pytest.mark.parametrize(
    ("x", "u", "how", "words"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), torch.zeros(2), {}, "not float64"),
        (torch.zeros(3), torch.zeros(3), {}, r"\(B, V\) is needed"),
        (torch.zeros(3, 0), torch.zeros(3), {}, "V from 1"),
        (torch.zeros(2, 3), torch.zeros(3), {}, r"uniform has to be \(2,\)"),
        (torch.zeros(2, 3), torch.zeros(2).double(), {}, "in fp32"),
        (torch.zeros(2, 3), torch.zeros(2), {"temperature": -1.0}, "temperature"),
        (torch.zeros(2, 3), torch.zeros(2), {"temperature": NAN}, "temperature"),
        (torch.zeros(2, 3), torch.zeros(2), {"temperature": INF}, "temperature"),
        (torch.zeros(2, 3), torch.zeros(2), {"top_k": -1}, "top_k"),
        (torch.zeros(2, 3), torch.zeros(2), {"top_p": 0.0}, "top_p"),
        (torch.zeros(2, 3), torch.zeros(2), {"top_p": NAN}, "top_p"),
        (torch.zeros(2, 3), torch.zeros(2), {"min_p": 1.1}, "min_p"),
    ],
)
def test_what_it_refuses(x: Tensor, u: Tensor, how: dict[str, Any], words: str) -> None:
    with pytest.raises(library.UnsupportedError, match=words):
        kernel.sample_logits(x, u, **how)


@pytest.mark.skipif(not interpreter.is_on(), reason="the interpreter is off")
def test_a_text_is_the_same_whoever_draws() -> None:
    from hornbook.sample import Sampling, sample_ids

    torch.manual_seed(0)
    model = hb.GPT(hb.GPTConfig(vocab_size=64, context_length=16, n_layer=1, n_head=2, d_model=32))
    ids = torch.randint(64, (2, 3))
    found = {}
    for choice in ("torch", "fused"):
        with ops.use_kernels("torch", sample_logits=choice):
            how = Sampling(0.9, top_k=20, top_p=0.9)
            found[choice] = torch.stack(list(sample_ids(model, ids, how, max_new_tokens=6, seed=1)))
    assert torch.equal(found["torch"], found["fused"])


# Mistakes that are planted into the kernel's source, which must not get through `check`.

PLANTS = {
    "one too many of top-k": ("top_k if top_k < n_cols else 0", "top_k + 1 if top_k < n_cols else 0"),
    "one too few of top-k, the long way": (
        "lo = row_threshold(X, n_cols, m, scale, top_k.to(tl.float32), lo,",
        "lo = row_threshold(X, n_cols, m, scale, top_k - 1.0, lo,",
    ),
    "a bound that is too high": (
        "ones, top_k.to(tl.float32), bottom, hi, COARSE)",
        "ones, top_k - 1.0, bottom, hi, COARSE)",
    ),
    "goals that must be passed": ("(sums >= goal)", "(sums > goal)"),
    "top-p of what top-k has dropped, too": (
        "total = tl.sum(tl.where(x >= number(lo), w, 0.0), axis=0)",
        "total = tl.sum(w, axis=0)",
    ),
    "the same, the long way": (
        "total = row_sum(X, n_cols, m, scale, number(lo), BLOCK, UNROLL)",
        'total = row_sum(X, n_cols, m, scale, float("-inf"), BLOCK, UNROLL)',
    ),
    "mass that is not renormalised": ("tl.sum(w, axis=0) * tl.load(Uniform)", "tl.load(Uniform)"),
    "the same, the long way ": ("goal = everything * tl.load", "goal = tl.load"),
    "min-p of the sum": ("(w >= min_p), w, 0.0)", "(w >= min_p * 2.0), w, 0.0)"),
    "a chunk that is forgotten": ("        below += here\n", ""),
    "a chunk too early": ("(below + here <= goal)", "(below + here < goal)"),
    "chunks counted from 1": ("col = found * BLOCK + lane", "col = (found + 1) * BLOCK + lane"),
    "lanes that are read in their own order": (
        "col = slot // hits * BLOCK + tl.load(Scratch + slot % hits,",
        "col = slot % tl.cdiv(n_cols, BLOCK) * BLOCK + tl.load(Scratch + slot // tl.cdiv(n_cols, BLOCK),",
    ),
    "no temperature": ("tl.exp2((x - m) * scale)", "tl.exp2((x - m) * 1.44269504)"),
    "a last column that is not read": ("mask=col < n_cols,", "mask=col < n_cols - 1,"),
}  # fmt: skip


def planted(before: str, after: str, folder: Path) -> ModuleType:
    source = (Path(hornbook.kernels.__path__[0]) / "sample_logits.py").read_text(encoding="utf-8")
    assert before in source, f"sample_logits.py no longer says {before!r}: plant the mistake where it now belongs"
    name = f"planted_{abs(hash((before, after)))}"
    source = re.sub(r'(library\.operator\(\s*")', rf"\1{name}_", source.replace(before, after))
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    return load(folder / f"{name}.py")


def is_caught(module: ModuleType) -> bool:
    x = some_logits(37, torch.bfloat16)[0].to(DEVICE)
    second_chunk = torch.cat((torch.full((16,), -math.inf), torch.zeros(16))).to(DEVICE)
    for name in ("short, chunks", "long"):
        with pytest.MonkeyPatch.context() as patch:
            take(name, module, patch)
            for how in FILTERS[:2] + FILTERS[3:8:2] + FILTERS[-1:]:
                try:
                    check(module.sample_logits, x, how, most=3)
                    check(module.sample_logits, second_chunk, how, most=1)
                except (AssertionError, interpreter_error()):
                    return True
    return False


@pytest.mark.once
@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_mistake_is_caught(plant: str, tmp_path: Path) -> None:
    assert is_caught(planted(*PLANTS[plant], tmp_path))


@pytest.mark.skipif(not interpreter.is_on(), reason="only the interpreter knows where a kernel writes")
def test_what_is_written_beyond_the_scratch_is_noticed(tmp_path: Path) -> None:
    """A store of all lanes, of which a row of 3,000 has more than its scratch."""
    module = planted(
        "Scratch + at, lane.to(tl.float32), mask=hit & (at < width)", "Scratch + lane, lane * 1.0", tmp_path
    )
    with pytest.raises(interpreter_error(), match="stores 4096 numbers that are in none of its tensors"):
        module.sample_logits(torch.zeros(1, 3000), torch.zeros(1))


def test_planting_as_such_breaks_nothing(tmp_path: Path) -> None:
    assert not is_caught(planted("from . import library", "from . import library  # the same", tmp_path))
