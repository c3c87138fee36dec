"""A trigram model: the mark that a neural one has to beat.

Interpolated modified Kneser–Ney smoothing (Chen and Goodman, 1999, "An empirical study of smoothing techniques for
language modeling", https://doi.org/10.1006/csla.1999.0128): for decades the best that counting can do.

    P3(c | a b) = (n(abc) - D(n(abc))) / n(ab·) + (what was taken away from all n(ab·)) / n(ab·) · P2(c | b)

and P2, P1 likewise, except that they do not count how often an n-gram occurred but after how many different
tokens it did: "Francisco" is frequent, yet follows only "San", so it is an unlikely guess after anything else.
Below P1 lies the uniform distribution. What is taken away, D, depends on whether the count is 1, 2 or more, and is
estimated from how many n-grams were seen once, twice, three and four times.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import DataError
from .shards import Split

Array = NDArray[np.int64]


@dataclass
class _Order:
    """The n-grams of one length.

    Attributes:
        grams: sorted keys of n-grams; a key is the n-gram's ids as digits of base V.
        top: for each, (count - discount) / (sum of counts in its context).
        contexts: sorted keys of the n-grams' first n - 1 tokens.
        rest: for each context, the probability left to the shorter n-grams.
    """

    grams: Array
    top: NDArray[np.float64]
    contexts: Array
    rest: NDArray[np.float64]

    @classmethod
    def count(cls, grams: Array, counts: Array, V: int) -> _Order:
        D = discounts(counts)[np.minimum(counts, 3)]
        contexts, owner = np.unique(grams // V, return_inverse=True)
        total = np.bincount(owner, weights=counts)
        return cls(grams, (counts - D) / total[owner], contexts, np.bincount(owner, weights=D) / total)

    def mix(self, keys: Array, V: int, shorter: NDArray[np.float64]) -> NDArray[np.float64]:
        """The probabilities of the last tokens of ``keys``, given the shorter n-grams' opinion of them."""
        return _look_up(self.grams, self.top, keys, 0.0) + _look_up(self.contexts, self.rest, keys // V, 1.0) * shorter


def discounts(counts: Array) -> NDArray[np.float64]:
    """(4,): what is taken from a count of 0, 1, 2, and 3 or more.

    Where too few n-grams were seen once to four times for an estimate, it is 0.5, 1 and 1.5.
    """
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if 0 in (n1, n2, n3):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n1 / (n1 + 2 * n2)
    D = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return D if (D[1:] > 0).all() and (D < [1, 1, 2, 3]).all() else np.array([0.0, 0.5, 1.0, 1.5])


def _look_up(sorted_keys: Array, values: NDArray[np.float64], keys: Array, absent: float) -> NDArray[np.float64]:
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[at] == keys, values[at], absent)


class Trigram:
    """A trigram model over token ids.

    Args:
        split: the text to count. Every document begins with its end-of-text token, as `data` stores it.
        vocab_size: V.
    """

    def __init__(self, split: Split, vocab_size: int) -> None:
        if not len(split):
            raise DataError("a trigram model needs some text to count")
        self.V = vocab_size
        a, b, c = _triples(split)
        grams3, counts3 = np.unique((a * self.V + b) * self.V + c, return_counts=True)
        # The shorter orders count, for each bigram (unigram), how many trigrams (bigrams) end with it.
        grams2, counts2 = np.unique(grams3 % self.V**2, return_counts=True)
        grams1, counts1 = np.unique(grams2 % self.V, return_counts=True)
        self.orders = [
            _Order.count(grams, counts, self.V)
            for grams, counts in ((grams1, counts1), (grams2, counts2), (grams3, counts3))
        ]

    def probability(self, a: Array, b: Array, c: Array) -> NDArray[np.float64]:
        """P(c | a b), elementwise."""
        p = np.full(c.shape, 1 / self.V)
        for order, keys in zip(self.orders, (c, b * self.V + c, (a * self.V + b) * self.V + c), strict=True):
            p = order.mix(keys, self.V, p)
        return p

    def bits_per_byte(self, split: Split) -> float:
        """-log2 p(text) / bytes over the documents of ``split``, their end-of-text tokens included."""
        return float(-np.log2(self.probability(*_triples(split))).sum() / split.bytes) if split.bytes else math.nan


def _triples(split: Split) -> tuple[Array, Array, Array]:
    """Each token with the two before it, in its own document: the first is preceded by the end-of-text token
    twice, and after the last comes the end-of-text token."""
    ids = split.read(0, len(split))
    eot = ids[0]
    ids = np.append(ids, eot)
    first = np.zeros(len(ids), dtype=bool)
    first[split.starts] = True  # where documents begin, and the end
    before = np.where(first[:-1], eot, np.roll(ids, 2)[1:])  # two back, but never in the document before
    return before, ids[:-1], ids[1:]
