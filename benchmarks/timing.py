"""Clocks for work on a GPU, and what a card can do at best.

A program only asks a GPU for work and goes on, so time is taken by the GPU itself: an event before a call, an event
after it. Three things spoil such a number, and are dealt with here:

    a warm cache    what the call before left in the L2 is read for nothing. Before each call `CudaClock` reads a buffer
                    of more than four times the L2; reads, since what is written would have to leave the cache at the
                    expense of the call that is timed.
    a slow host     if the GPU waits for the program between two kernels, it is the program that is timed. While the
                    buffer is read, a quarter of a millisecond or more, the program gets ahead.
    a bad moment    clocks rise and fall, other work comes and goes. `round_robin` times all candidates in turns, so
                    that each has its share of every moment, and reports medians.

Times are in milliseconds unless a name says otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], Any]
Measure = Callable[[Call], float]
"""Does a call and says how many milliseconds it took."""

FORMATS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Times:
    """Milliseconds of repeated calls. Half of them took between ``low`` and ``high``."""

    median: float
    least: float
    low: float
    high: float
    calls: int


def summary(times: Sequence[float]) -> Times:
    """What there is to say about repeated calls; at least one."""
    ordered = sorted(times)

    def share(part: float) -> float:
        at = part * (len(ordered) - 1)
        below = int(at)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (at - below)

    return Times(median(ordered), ordered[0], share(0.25), share(0.75), len(ordered))


def round_robin(
    candidates: Mapping[str, Call],
    measure: Measure,
    *,
    seconds: float = 1.0,
    least: int = 5,
    most: int = 100,
    warmup: int = 2,
) -> dict[str, Times]:
    """Time the candidates in turns, every other round in the opposite order: nobody always follows the same one.

    Args:
        candidates: name → what to do.
        measure: the clock.
        seconds: of timed work, all candidates together; it decides on the number of rounds.
        least, most: rounds.
        warmup: calls of each that do not count; the last one says how long a round is. At least one.
    """
    once = 0.0
    for _ in range(warmup):
        once = sum(measure(call) for call in candidates.values())
    rounds = most if once <= 0 else int(min(most, max(least, seconds * 1000 / once)))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(measure(candidates[name]))
    return {name: summary(found) for name, found in times.items()}


class CudaClock:
    """Times a call on the current CUDA device by events.

    Args:
        flush: empty the L2 before each call. Without, the time that the GPU waits for the program counts too, as it
            does for whoever runs a step of a model.
    """

    def __init__(self, flush: bool = True) -> None:
        self.flushed: Tensor | None = None
        if flush:
            card = torch.cuda.get_device_properties(torch.cuda.current_device())
            size = max(4 * card.L2_cache_size, min(1 << 30, card.total_memory // 16))  # bytes
            self.flushed = torch.ones(size // 4 + 1, device="cuda")
        self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self, call: Call) -> float:
        if self.flushed is not None:
            self.flushed.sum()
        self.start.record()
        call()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end)


def host_clock(call: Call) -> float:
    """Times a call on the CPU."""
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def copy_bandwidth(measure: Measure, device: torch.device | str = "cuda", size: int | None = None) -> float:
    """Bytes read plus bytes written per second, by a large copy inside the device's memory.

    Args:
        size: bytes to copy; 4 GiB, or an eighth of what is free, if not given.
    """
    if size is None:
        size = min(1 << 32, torch.cuda.mem_get_info()[0] // 8)
    source = torch.randn(size // 4, device=device)
    target = torch.empty_like(source)
    times = round_robin({"copy": lambda: target.copy_(source)}, measure, least=10, most=20)
    return 2 * source.numel() * 4 / (times["copy"].median / 1000)


def matmul_rate(measure: Measure, dtype: str, device: torch.device | str = "cuda", size: int = 8192) -> float:
    """Floating-point operations per second of a product of two square matrices, as PyTorch's library does it.

    Args:
        dtype: fp32 (IEEE, as PyTorch does by default), fp16 or bf16.
        size: rows and columns.
    """
    a, b = (torch.randn(size, size, device=device, dtype=FORMATS[dtype]) for _ in range(2))  # zeros would be faster
    c = torch.empty_like(a)
    times = round_robin({"matmul": lambda: torch.mm(a, b, out=c)}, measure, least=10, most=20)
    return 2 * size**3 / (times["matmul"].median / 1000)


def peak_memory(call: Call) -> int:
    """Bytes of the CUDA device that a call takes at its peak, its result among them, beyond what was taken before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    del result
    return torch.cuda.max_memory_allocated() - before


def launch_overhead(
    call: Call,
    synchronize: Call,
    *,
    calls: int = 50,
    repeats: int = 5,
    now: Callable[[], float] = time.perf_counter,
) -> float:
    """Microseconds of the program's own time per call, the median of ``repeats``.

    The call must be so small that the GPU is done with it before the next one comes: then nobody waits for the GPU, and
    the host's clock sees Python, PyTorch and the launches only.
    """
    call()
    taken = []
    for _ in range(repeats):
        synchronize()
        began = now()
        for _ in range(calls):
            call()
        taken.append((now() - began) / calls)
    synchronize()
    return median(taken) * 1e6


def captured(call: Call, calls: int) -> Call:
    """So many calls in a row as one CUDA graph, which is replayed by calling what this returns."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):  # what is done once only, such as compiling, must not be captured
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(calls):
            call()
    return graph.replay


def kernel_time(call: Call) -> float:
    """Milliseconds that the kernels of a call take together, without the time between them, as PyTorch's profiler sees
    it; the median of five calls."""

    def once() -> float:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        on_gpu = (event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA)
        return sum(event.time_range.elapsed_us() for event in on_gpu) / 1000

    once()  # the profiler itself has to start
    return median(once() for _ in range(5))
