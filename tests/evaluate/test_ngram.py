"""The trigram model against hand-computed numbers and against the formulas written out with dictionaries."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hornbook.errors import DataError
from hornbook.ngram import Trigram, discounts
from hornbook.shards import Split

EOT = 0


def split(*documents: list[int]) -> Split:
    ids = [[EOT, *d] for d in documents]
    starts = np.cumsum([0] + [len(d) for d in ids])
    return Split([np.concatenate(ids).astype(np.uint16)], starts, bytes=sum(len(d) for d in documents))


def by_the_book(documents: list[list[int]], V: int):
    """Chen and Goodman's equations, one dictionary a count."""
    padded = [[EOT, EOT, *d, EOT] for d in documents]
    c3 = Counter(tuple(d[i : i + 3]) for d in padded for i in range(len(d) - 2))
    c2 = Counter(gram[1:] for gram in c3)  # in how many different trigrams
    c1 = Counter(gram[1:] for gram in c2)

    def p(gram: tuple[int, ...], counts: list[Counter]) -> float:
        if not gram:
            return 1 / V
        mine, shorter = counts[0], p(gram[1:], counts[1:])
        D = discounts(np.array(list(mine.values())))
        followers = [n for g, n in mine.items() if g[:-1] == gram[:-1]]
        if not followers:
            return shorter
        taken = sum(D[min(n, 3)] for n in followers)
        n = mine.get(gram, 0)
        return (n - D[min(n, 3)] + taken * shorter) / sum(followers)

    return lambda *gram: p(gram, [c3, c2, c1])


def random_documents(seed: int, V: int, count: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [(1 + random.zipf(1.4, size=random.integers(0, 12)) % (V - 1)).tolist() for _ in range(count)]


@pytest.mark.parametrize(("V", "count"), [(4, 3), (7, 40), (30, 300)])
def test_equals_the_formulas(V: int, count: int) -> None:
    documents = random_documents(V, V, count)
    model, expected = Trigram(split(*documents), V), by_the_book(documents, V)
    grams = np.random.default_rng(0).integers(0, V, size=(200, 3))
    found = model.probability(grams[:, 0], grams[:, 1], grams[:, 2])
    np.testing.assert_allclose(found, [expected(*g) for g in grams.tolist()], rtol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_sums_to_one(seed: int) -> None:
    V = 20
    model = Trigram(split(*random_documents(seed, V, 100)), V)
    for a, b in np.random.default_rng(seed).integers(0, V, size=(30, 2)):
        every = np.arange(V)
        assert model.probability(np.full(V, a), np.full(V, b), every).sum() == pytest.approx(1, abs=1e-12)


def test_a_case_by_hand() -> None:
    """One document "1 2": trigrams 001, 012, 120, each once, so every discount is the fallback 0.5.

    P1: the bigrams 01, 12, 20 end in 1, 2, 0, one each: P1(x) = (1 - .5)/3 + (3 · .5)/3 · 1/4 = 1/6 + 1/8 = 7/24
    for x in 0, 1, 2. P2(2|1) = (1 - .5)/1 + .5 · 7/24 = 31/48. P3(2|01) = .5 + .5 · 31/48 = 79/96.
    """
    model = Trigram(split([1, 2]), 4)
    p = model.probability(np.array([0, 0, 3]), np.array([1, 3, 3]), np.array([2, 2, 3]))
    np.testing.assert_allclose(p, [79 / 96, 7 / 24, 1 / 8], rtol=1e-14)


def test_discounts() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [10, 5, 3, 2, 7])
    y = 10 / 20
    np.testing.assert_allclose(
        discounts(counts), [0, 1 - 2 * y * 5 / 10, 2 - 3 * y * 3 / 5, 3 - 4 * y * 2 / 3], rtol=1e-15
    )
    assert discounts(np.array([1, 1, 2])).tolist() == [0, 0.5, 1, 1.5], "too few to estimate"


def test_bits_per_byte_is_the_sum_over_documents() -> None:
    documents, unseen = random_documents(1, 9, 50), random_documents(2, 9, 10)
    expected = by_the_book(documents, 9)
    bits = 0.0
    for d in unseen:
        padded = [EOT, EOT, *d, EOT]
        bits -= sum(math.log2(expected(*padded[i : i + 3])) for i in range(len(padded) - 2))
    heldout = split(*unseen)
    assert Trigram(split(*documents), 9).bits_per_byte(heldout) == pytest.approx(bits / heldout.bytes, rel=1e-12)


def test_no_text() -> None:
    with pytest.raises(DataError, match="some text"):
        Trigram(Split([], np.zeros(1, np.int64), 0), 5)
