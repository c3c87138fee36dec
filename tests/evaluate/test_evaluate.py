"""Bits per byte against a sum taken document by document."""

from __future__ import annotations

import math

import hornbook as hb
import numpy as np
import pytest
import torch
from hornbook.data import heldout_rows
from hornbook.evaluate import bits_per_byte
from hornbook.shards import Split

V = 11


def random_split(seed: int, lengths: list[int]) -> Split:
    random = np.random.default_rng(seed)
    documents = [np.concatenate(([0], random.integers(1, V, size=n))) for n in lengths]
    starts = np.cumsum([0] + [len(d) for d in documents])
    return Split([np.concatenate(documents).astype(np.uint16)], starts, bytes=0)


def test_equals_the_sum_over_documents() -> None:
    torch.manual_seed(0)
    model = hb.GPT(hb.GPTConfig(vocab_size=V, context_length=16, n_layer=2, n_head=2, d_model=8, init_std=0.5))
    split = random_split(3, [5, 1, 12, 15, 40, 3])
    token_bytes = np.array([0, 1, 2, 3, 1, 1, 4, 1, 1, 2, 1])
    bits, size = 0.0, 0
    model.requires_grad_(False)
    for start, end in zip(split.starts[:-1], split.starts[1:], strict=True):
        document = torch.tensor([*split.read(start, end - start), 0])
        size += int(token_bytes[document[1:]].sum())
        for at in range(0, len(document) - 1, 16):
            row = document[at : at + 17]
            log_p = torch.log_softmax(model(row[None, :-1])[0].double(), -1)
            bits -= float(log_p.gather(1, row[1:, None]).sum()) / math.log(2)
    assert bits_per_byte(model, split, token_bytes, context_length=16) == pytest.approx(bits / size, rel=1e-5)
    assert model.training is True, "the model is left as it was"


def test_each_token_is_scored_once() -> None:
    split = random_split(0, [0, 1, 7, 8, 9, 30])
    rows = list(heldout_rows(split, 8))
    assert sum(len(row) - 1 for row in rows) == len(split)  # one target for every token but the first, and the end
    assert max(map(len, rows)) == 9
    assert len(list(heldout_rows(split, 8, limit=4))) == 3, "whole rows until the limit is reached"
    long = random_split(0, [1000])
    assert len(list(heldout_rows(long, 8, limit=20))) == 3, "also inside a document"


def test_nothing_to_score() -> None:
    model = hb.GPT(hb.GPTConfig(vocab_size=V, context_length=8, n_layer=1, n_head=1, d_model=4))
    empty = Split([], np.zeros(1, np.int64), 0)
    assert math.isnan(bits_per_byte(model, empty, np.ones(V, int), context_length=8))
