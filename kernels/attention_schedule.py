"""Which tile of attention's matrix of scores a program computes, and in what order: arithmetic that kernels in Triton
and in Gluon share, and tests call as plain Python. Nothing below 0 is divided: Triton rounds a quotient towards 0, and
Python down.
"""

from __future__ import annotations

L2_BYTES = 24 << 20
"""about half of what an A100, H100 or H200 has: for keys and values that are read again"""


def place(tile, blocks, heads, together, CAUSAL):
    """The block of queries and the head (of all sequences, 0 ... heads - 1) that are number ``tile`` in turn.

    ``together`` heads run at a time, so that their keys and values stay in the L2 cache; among these, all heads' block
    that sees most keys comes first, and the one that sees fewest last: programs of very different length end together
    if the long ones begin first (Graham, 1969, https://doi.org/10.1137/0117039).
    """
    group = tile // (together * blocks)
    inside = tile % (together * blocks)
    width = min(together, heads - group * together)  # the last group may be smaller
    block = inside // width
    head = group * together + inside % width
    if CAUSAL:
        block = blocks - 1 - block
    return block, head


def tiles(block, T_q, T_k, CAUSAL, BLOCK_M, BLOCK_N):
    """How many tiles of keys a block of queries sees: in whole, every query every key, and in all.

    At least one in all: where no query sees any key, one tile is masked from end to end.
    """
    whole = T_k
    end = T_k
    if CAUSAL:  # query i sees keys up to i + T_k - T_q
        whole = min(T_k, max(0, block * BLOCK_M + T_k - T_q + 1))
        end = min(T_k, max(0, (block + 1) * BLOCK_M + T_k - T_q))
    return whole // BLOCK_N, max(1, (end + BLOCK_N - 1) // BLOCK_N)


def ring(j, STAGES):
    """Of a ring of buffers the one that tile ``j`` goes through, and the parity of the round that it does so in. A
    barrier that counts rounds lets those through who wait for a parity that it has just finished: who takes the tile
    waits for its buffer to be full for this parity, who puts it there for it to be empty for the other one (which a new
    barrier is said to have finished: the buffers begin empty)."""
    return j % STAGES, (j // STAGES) & 1


def fit(heads: int, group: int, T_k: int, head_dim: int, size: int, cache: int = L2_BYTES) -> int:
    """How many heads of queries run together: whole groups that share keys and values, as many as ``cache`` bytes hold
    the keys and values of."""
    bytes_of_group = 2 * T_k * head_dim * size
    return max(1, min(heads, group * max(1, cache // max(1, bytes_of_group))))
