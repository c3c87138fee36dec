"""The order of attention's single-pass backward in plain Python: who adds to which block of queries, and when."""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass
from random import Random

Steps = list[tuple[int, int]]  # of a program, one after the other: the tile, and whose turn it has to be


@dataclass(frozen=True)
class Plan:
    T_q: int
    T_k: int
    block_m: int
    block_n: int
    group: int  # query heads that share a key-value head
    heads: int  # key-value heads of all sequences
    section: int
    causal: bool

    @property
    def blocks_m(self) -> int:
        return -(-self.T_q // self.block_m)

    @property
    def blocks_n(self) -> int:
        return -(-self.T_k // self.block_n)

    def sees(self, i: int, n: int) -> bool:
        """Whether the last query of block i is shown the first key of block n."""
        last = min(self.T_q, (i + 1) * self.block_m) - 1
        return not self.causal or n * self.block_n <= last + self.T_k - self.T_q

    def programs(self) -> list[Steps]:
        """By ticket."""
        return [
            [
                ((head * self.group + g) * self.blocks_m + i, self.last(i) - n)
                for i in range(self.blocks_m)
                if self.sees(i, n)
                for g in range(self.group)
            ]
            for start in range(0, self.heads, self.section)
            for n in reversed(range(self.blocks_n))
            for head in range(start, min(self.heads, start + self.section))
        ]

    def last(self, i: int) -> int:
        """The last block of keys that queries of block i see, as the kernel computes it: it adds first."""
        end = min(self.T_q, (i + 1) * self.block_m) - 1 + self.T_k - self.T_q
        return min(self.blocks_n - 1, end // self.block_n) if self.causal else self.blocks_n - 1


def run_at_random(programs: list[Steps], places: int, dice: Random, waits: bool = True) -> tuple[tuple[int, ...], ...]:
    """Run with room for some programs at a time, started in order, whose steps happen in any order that turns allow.

    Returns:
        For every tile, by number, the programs that added to it in their order.

    Raises:
        RuntimeError: when all wait.
    """
    done, added = [0] * len(programs), defaultdict[int, list[int]](list)
    started, running = 0, list[int]()
    while started < len(programs) or running:
        while started < len(programs) and len(running) < places:
            running.append(started)
            started += 1

        def may_go_on(p: int) -> bool:
            if done[p] == len(programs[p]) or not waits:
                return True
            tile, turn = programs[p][done[p]]
            return len(added[tile]) == turn

        ready = list(filter(may_go_on, running))
        if not ready:
            raise RuntimeError(f"programs {running} wait for each other")
        p = dice.choice(ready)
        if done[p] == len(programs[p]):
            running.remove(p)
        else:
            added[programs[p][done[p]][0]].append(p)
            done[p] += 1
    return tuple(tuple(added[tile]) for tile in sorted(added))


def duration(programs: list[Steps], places: int, latency: float, overhead: float = 1.5, waits: bool = True) -> float:
    """How long it takes, in steps: with so many places, a step's time each, and ``latency`` from one program's adding
    to the next one's seeing it; ``overhead`` at the begin and end of every program together."""
    free, seen = [0.0] * places, defaultdict[int, float](float)
    for steps in programs:  # nobody waits for a later one, so one after the other will do
        now = heapq.heappop(free) + overhead
        for tile, _ in steps:
            now = max(now + 1.0, seen[tile] if waits else 0.0)
            seen[tile] = now + latency
        heapq.heappush(free, now)
    return max(free)


def main() -> None:
    """A table: of the time that an even split of the work would take, what the schedule reaches."""
    print("| T | heads | head_dim | tile | places | no waits | 1 step | 2 steps | 3 steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for T, heads in ((1024, 192), (4096, 64), (16384, 16), (16384, 4)):
        for D, block_m, block_n, places in ((64, 64, 128, 132), (64, 64, 64, 264), (128, 64, 128, 132)):
            section = max(1, min(heads, (24 << 20) // (T * D * 8)))
            programs = Plan(T, T, block_m, block_n, 1, heads, section, True).programs()
            even = sum(len(steps) + 1.5 for steps in programs) / places
            times = [duration(programs, places, 0.0, waits=False)]
            times += [duration(programs, places, latency) for latency in (1.0, 2.0, 3.0)]
            cells = " | ".join(f"{even / time:.2f}" for time in times)
            print(f"| {T} | {heads} | {D} | {block_m}x{block_n} | {places} | {cells} |")


if __name__ == "__main__":
    main()
