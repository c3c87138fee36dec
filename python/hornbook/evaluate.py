"""How well a model predicts text that it has not seen.

The measure is bits per byte: the information, in bits, that is missing after the model has guessed, spread over
the bytes of the text. Unlike a loss per token it can be compared between tokenizers, and with any other predictor.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from .data import heldout_rows
from .shards import Split

BATCH_TOKENS = 8192


@torch.no_grad()
def bits_per_byte(
    model: nn.Module, split: Split, token_bytes: np.ndarray, *, context_length: int, limit: int | None = None
) -> float:
    """-log2 p(text) / bytes, each document from its own start, its end-of-text token included.

    Args:
        model: called as ``model(ids, targets, reduction="sum")``.
        split: the documents.
        token_bytes: (vocab_size,), bytes of text behind each token.
        context_length: no more tokens at once.
        limit: score the documents up to about this many tokens only.
    """
    device = next(model.parameters()).device
    rows = sorted(heldout_rows(split, context_length, limit), key=len)  # rows of like length waste no padding
    was_training = model.training
    model.eval()
    nats, size, at = 0.0, 0, 0
    try:
        while at < len(rows):
            # As many rows as fill a batch when each is as long as the longest, which is the last.
            n = 1
            while at + n < len(rows) and (n + 1) * len(rows[at + n]) <= BATCH_TOKENS:
                n += 1
            ids, targets = _padded(rows[at : at + n])
            nats += float(model(ids.to(device), targets.to(device), reduction="sum"))
            size += sum(int(token_bytes[row[1:]].sum()) for row in rows[at : at + n])
            # A row's first token is the document's end-of-text mark, or was scored as the last of the row before.
            at += n
    finally:
        model.train(was_training)
    return nats / math.log(2) / size if size else math.nan


def _padded(rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
    """(B, T) ids and targets of rows of different length; what is missing counts for nothing."""
    T = max(map(len, rows)) - 1
    ids, targets = torch.zeros(len(rows), T, dtype=torch.int64), torch.full((len(rows), T), -100)
    for i, row in enumerate(rows):
        ids[i, : len(row) - 1] = torch.from_numpy(row[:-1])
        targets[i, : len(row) - 1] = torch.from_numpy(row[1:])
    return ids, targets
