"""Drawn tokens as a whole: a χ² test of 100,000 draws, of PyTorch and of the kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hornbook import native
from hornbook.kernels import interpreter
from hornbook.kernels import sample_logits as kernel
from hornbook.reference.sample_logits import probabilities
from torch import Tensor

from .test_sample_logits import Draw, take


def is_plausible(tokens: Tensor, p: Tensor) -> bool:
    """χ² test: whether draws from the distribution p are as far from it as these once in 30,000 times or more often."""
    counts, expected = torch.bincount(tokens, minlength=len(p)).double(), p * len(tokens)
    if counts[p == 0].any():
        return False
    few = expected < 5
    groups = [(counts[few].sum(), expected[few].sum())] if expected[few].sum() >= 5 else []
    groups += list(zip(counts[~few], expected[~few], strict=True))
    distance = sum(float((count - want) ** 2 / want) for count, want in groups)
    k = len(groups) - 1
    # χ² of k is about k (1 - 2 / 9k + z sqrt(2 / 9k))³ for a normal z (Wilson and Hilferty, 1931).
    return k < 1 or distance < k * (1 - 2 / (9 * k) + 4 * math.sqrt(2 / (9 * k))) ** 3


DRAWS = 100_000


LOGITS = 2 * torch.randn(100, generator=torch.Generator().manual_seed(2))
FILTERS: dict[str, Any] = {"top_k": 16, "top_p": 0.9, "min_p": 0.05}
HOWS: dict[str, dict[str, Any]] = {"plain": {}, "temperature": {"temperature": 0.7}}
HOWS |= {name: {name: value} for name, value in FILTERS.items()}
# All cut off the unlikely end, so only the sharpest of them shows: top-p of what top-k leaves, or min-p.
HOWS |= {
    "all": {"temperature": 1.2} | FILTERS,
    "all, min-p the sharpest": {"temperature": 1.2} | FILTERS | {"min_p": 0.3},
}
NONE = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
each_how = pytest.mark.parametrize("how", [pytest.param(how, id=name) for name, how in HOWS.items()])


def distribution(how: dict[str, Any]) -> Tensor:
    return probabilities(LOGITS.double()[None], **how)[0]


def test_every_filter_counts_among_all() -> None:
    together = [how for how in HOWS.values() if len(how) == 4]
    for name in ("temperature", *FILTERS):
        assert any(not torch.allclose(distribution(how), distribution(how | {name: NONE[name]})) for how in together)


def some_numbers() -> Tensor:
    return torch.rand(DRAWS, generator=torch.Generator().manual_seed(3))


def is_the_distribution(tokens: Tensor, p: Tensor) -> bool:
    return is_plausible(tokens, p) and not is_plausible(tokens, p.roll(1))


@each_how
@pytest.mark.parametrize(
    ("draw", "device"),
    [
        pytest.param(native.sample_logits, "cpu", id="torch"),
        pytest.param(kernel.sample_logits, "cuda", id="gpu", marks=pytest.mark.gpu),
    ],
)
def test_the_distribution(how: dict[str, Any], draw: Draw, device: str) -> None:
    tokens = draw(LOGITS.to(device).expand(DRAWS, -1), some_numbers().to(device), **how).cpu()
    assert is_the_distribution(tokens, distribution(how))


def drawn_in_few_calls(draw: Callable[[Tensor], Tensor], numbers: Tensor) -> Tensor:
    """The tokens of sorted ``numbers``, if larger numbers draw no smaller tokens: where two of them draw the same
    token, so do all between, and only where they do not one in the middle is drawn."""
    tokens = torch.full((len(numbers),), -1)
    ends = torch.tensor([0, len(numbers) - 1])
    tokens[ends] = draw(numbers[ends])
    between = [(0, len(numbers) - 1)]
    while between:
        for first, last in between:
            if tokens[first] == tokens[last]:
                tokens[first:last] = tokens[first]
        between = [(first, last) for first, last in between if last - first > 1 and tokens[first] != tokens[last]]
        middles = torch.tensor([(first + last) // 2 for first, last in between], dtype=torch.long)
        tokens[middles] = draw(numbers[middles])
        halves = zip(between, middles.tolist(), strict=True)
        between = [half for (first, last), at in halves for half in ((first, at), (at, last))]
    return tokens


@pytest.mark.skipif(not interpreter.is_on(), reason="the interpreter is off")
@pytest.mark.parametrize(
    ("path", "name"),
    [("as launched", "all"), *(pytest.param("long", name, marks=pytest.mark.slow) for name in HOWS if "all" in name)],
)
def test_the_distribution_in_the_interpreter(path: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw takes tens of milliseconds here, so most are told from their neighbours, and a few of these are drawn to
    be sure."""
    take(path, kernel, monkeypatch)
    how = HOWS[name]
    numbers = some_numbers().sort().values
    tokens = drawn_in_few_calls(lambda u: kernel.sample_logits(LOGITS.expand(len(u), -1), u, **how), numbers)
    some = torch.randint(DRAWS, (20,), generator=torch.Generator().manual_seed(4))
    assert torch.equal(kernel.sample_logits(LOGITS.expand(20, -1), numbers[some], **how), tokens[some])
    assert is_the_distribution(tokens, distribution(how))


def test_the_test_of_distributions_notices() -> None:
    """A token in a hundred that is drawn a tenth too often."""
    p = torch.full((100,), 0.01, dtype=torch.float64)
    random = torch.Generator().manual_seed(4)
    assert is_plausible(torch.multinomial(p, 100_000, replacement=True, generator=random), p)
    skewed = p * torch.linspace(0.9, 1.1, 100)
    assert not is_plausible(torch.multinomial(skewed, 100_000, replacement=True, generator=random), p)
