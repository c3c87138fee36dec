"""How fast the kernels are: against what the card can do at best, against naive PyTorch, and against other libraries.

    hornbook bench kernels --only softmax,attention --shapes "softmax=32768x4096;attention=4x4096x16x128"

First the two limits of the card are measured: bytes copied per second, and floating-point operations per second in
products of matrices. They give each call a floor, the time below which nobody can get. Operations on rows are all
memory: every input read once, every output written once. Attention has two floors, of which the higher one counts.

Then all implementations take turns at each shape, forward and backward separately: ``reference``, ``torch`` (the best
of PyTorch itself), ``torch.compile`` of the reference, ``composed`` and ``fused``; Liger, QuACK and FlashInfer too
where they are installed and have the operation (but not QuACK's layer norm, which is no autograd function). Whoever is
timed is first held against the reference in float64 on that very shape. `kernel_goals` says what ``fused`` is to reach,
and `kernel_report` shows all of it.
"""

from __future__ import annotations

import importlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, nearest
from . import kernel_goals, kernel_report, report, timing
from .kernel_report import NAMES
from .operations import LIBRARIES, OPERATIONS, Case, Function, Operation, Shape, implementation, results

PEERS = ("torch", "torch.compile", *LIBRARIES)
ANY_ORDER = "any order"  # our attention whose way back may add in any order: one way forth with ``fused``
OURS = ("composed", "fused", ANY_ORDER)
# Of ‖result - reference‖ / ‖reference‖; rounding alone makes up to a third of it (layer_norm in bf16: 7e-3).
TOLERANCE = {"fp32": 1e-4, "fp16": 4e-3, "bf16": 2e-2}
# How many times attention's matrix of weights, in fp32, they need at once, about.
MATRICES = {"reference": 10.0, "torch.compile": 10.0, "composed": 6.0, "MATH": 10.0}
PRODUCTS = "matmuls"  # not an implementation: what an operation cannot do without
# Of the time that a run has: until then it waits for torch.compile, begins new rows, and asks for the program's own
# time. What is left after that is for plots, and for what takes longer than it should.
COMPILING_SHARE, ROWS_SHARE, HOST_SHARE = 0.4, 0.75, 0.9


def chosen(only: str) -> list[Operation]:
    """The operations of ``--only``, all if it is empty."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    for name in names:
        if name not in OPERATIONS:
            raise ConfigError(f"there is no operation {name!r} to time{nearest(name, OPERATIONS)}")
    return [operation for name, operation in OPERATIONS.items() if not names or name in names]


def parse_shapes(text: str) -> dict[str, tuple[Shape, ...]]:
    """ "softmax=8192x4096,1024x50257;attention=4x2048x16x64" → operation → shapes.

    Raises:
        ConfigError: that says which part is wrong and how it should look.
    """
    found: dict[str, tuple[Shape, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, shapes = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ConfigError(f"--shapes {part!r}: write OPERATION=SHAPE,SHAPE;... such as softmax=8192x4096")
        if name not in OPERATIONS:
            raise ConfigError(f"--shapes: there is no operation {name!r} to time{nearest(name, OPERATIONS)}")
        letters = OPERATIONS[name].letters
        for shape in (shape.strip() for shape in shapes.split(",")):
            numbers = shape.split("x")
            right = all(n.isascii() and n.isdecimal() and int(n) for n in numbers)
            if not right or len(numbers) != letters.count("x") + 1:
                raise ConfigError(f"--shapes: a shape of {name} is {letters}, whole numbers from 1, not {shape!r}")
            found[name] = (*found.get(name, ()), tuple(map(int, numbers)))
    return found


def cases(only: str = "", shapes: str = "", dtypes: str = "bf16", quick: bool = False) -> list[Case]:
    """What the options ask for.

    Raises:
        ConfigError: for options that make no sense.
    """
    operations, special = chosen(only), parse_shapes(shapes)
    for name in special:
        if OPERATIONS[name] not in operations:
            raise ConfigError(f"--shapes has shapes of {name}, which --only leaves out")
    formats = [name.strip() for name in dtypes.split(",") if name.strip()]
    for name in formats or [""]:
        if name not in timing.FORMATS:
            raise ConfigError(f"there is no number format {name!r}{nearest(name, timing.FORMATS)}")
    found = [
        (number, Case(operation, form, shape, dtype))
        for operation in operations
        for dtype in formats
        for number, shape in enumerate(special.get(operation.name, operation.quick if quick else operation.shapes))
        for form in operation.forms
    ]
    if quick:  # the first shape of everything, then the second: it may end before all are done
        found.sort(key=lambda pair: pair[0])
    return [case for _, case in found]


def in_order(todo: Sequence[Case], about: Callable[[Case], Iterable[Any]] = kernel_goals.about) -> list[Case]:
    """What goals need first: a case of each, then the others that goals are about, then the rest."""
    seen: set[tuple[str, Any]] = set()

    def rank(case: Case) -> int:
        goals = {(case.operation.name, goal) for goal in about(case)}
        new = not goals <= seen
        seen.update(goals)
        return 0 if new else 1 if goals else 2

    return sorted(todo, key=rank)


Found = tuple[dict[str, Function], dict[str, str]]
"""who can compute a case, and why others cannot"""


def too_large(name: str, case: Case, free: float) -> str | None:
    """Why an implementation is not even tried: its matrices would take most of so many bytes."""
    # What forward keeps and backward makes of them: fp32 scores, weights, ... and their gradients; composed in `dtype`.
    needed = MATRICES.get(name, 0.0) * case.matrix_bytes()
    return f"not run: its T x T matrices would take about {needed / 1e9:.0f} GB" if needed > 0.6 * free else None


def functions(case: Case, names: Sequence[str], free: float = math.inf) -> Found:
    """Who can compute a case, and why others cannot.

    Args:
        free: bytes; an implementation whose matrices of weights would take most of them is left out.
    """
    found: dict[str, Function] = {}
    notes: dict[str, str] = {}
    operation = case.operation.name
    for name in names:
        if (why := too_large(name, case, free)) is not None:
            notes[name] = why
        elif name in LIBRARIES and not case.has(name):
            continue  # it has no such function
        else:
            try:
                found[name] = implementation(name, operation)
            except KeyError:
                continue
            except ImportError as error:
                if name not in LIBRARIES:  # whoever has not installed another library need not hear of it
                    notes[name] = report.because(error)
            except Exception as error:  # a library of another version, a GPU that Triton does not know
                notes[name] = report.because(error)
    return found, notes


def measure_case(
    case: Case,
    measure: timing.Measure,
    limits: dict[str, Any],
    *,
    device: str = "cuda",
    names: Sequence[str] = NAMES,
    seconds: float = 1.0,
    find: Callable[[Case, Sequence[str], float], Found] = functions,
) -> list[dict[str, Any]]:
    """Check and time everybody at one case; a row for each direction of the operation, for JSON.

    Args:
        measure: the clock.
        limits: "copy", bytes per second, and "matmul", number format → operations per second.
        names: whom to time.
        seconds: of timed work a row.
        find: as `functions`.
    """
    on_gpu = device == "cuda"
    found, notes = find(case, names, torch.cuda.mem_get_info()[0] if on_gpu else math.inf)
    tensors = case.tensors(device)
    if on_gpu:
        torch.compiler.reset()  # each shape is compiled anew, as a program with that shape would
    options, errors = case.options, {}
    dys: list[Tensor] = []
    for name, f in list(found.items()):
        try:
            # Copies, as there are some that write over what they are given, and the next one is checked on the same.
            given = [t.clone() for t in tensors]
            ys = results(f(*given, **options))
            dys = dys or [case.upstream(y) for y in ys]
            if name != "reference":
                errors[name] = case.check(name, tensors, dys, ys, gradients(ys, given, dys))
            del ys, given
        except Exception as error:  # whatever another library or a compiler does, the others are still timed
            notes[name] = report.because(error)
            del found[name]
        else:
            if not errors.get(name, 0.0) <= TOLERANCE[case.dtype]:
                notes[name] = f"is off by {errors[name]:.1e}"
                if name not in OURS:
                    notes[name] += ", so it is not timed"
                    del found[name]

    rows = []
    for direction in case.operation.directions:
        calls: dict[str, timing.Call] = {}
        memory: dict[str, int] = {}
        said = dict(notes)
        # Those with matrices of T x T last: if the graphs of all together are too much, it is one of these that goes.
        for name in sorted(found, key=lambda name: name in MATRICES):
            if direction == "forward" and name == ANY_ORDER and "fused" in found:
                continue
            try:
                f = found[name]
                call = _call(f, tensors, options, dys, direction)
                measure(call)
                memory |= {name: timing.peak_memory(call)} if on_gpu else {}
                calls[name] = call
            except Exception as error:
                said[name] = report.because(error)
        times: dict[str, timing.Times] = {}
        calls = {name: calls[name] for name in found if name in calls}
        if direction == "both" and "fused" in calls:
            try:
                products = kernel_goals.products(case.operation.name, tensors)
                calls |= {} if products is None else {PRODUCTS: products}
            except torch.OutOfMemoryError as error:
                said[PRODUCTS] = report.because(error)
        while calls:
            try:
                times = timing.round_robin(calls, measure, seconds=seconds)
                break
            except torch.OutOfMemoryError as error:
                largest = max(calls, key=lambda name: (name not in (*OURS, PRODUCTS), memory.get(name, 0)))
                said[largest] = report.because(error)
                del calls[largest]
                torch.cuda.empty_cache()
        rows.append(row(case, direction, times, limits, errors, memory, said))
        calls.clear()
    return rows


def gradients(ys: Sequence[Tensor], tensors: list[Tensor], dys: list[Tensor], keep: bool = False) -> tuple[Tensor, ...]:
    """Of the inputs that want one; none if the results have none."""
    if not any(y.requires_grad for y in ys):
        return ()
    return torch.autograd.grad(ys, [t for t in tensors if t.requires_grad], dys, retain_graph=keep)


def _call(
    f: Function, tensors: list[Tensor], options: dict[str, Any], dys: list[Tensor], direction: str
) -> timing.Call:
    """Forward; or backward through a graph that is made now; or both."""
    match direction:
        case "forward":
            return lambda: f(*tensors, **options)
        case "both":
            return lambda: gradients(results(f(*tensors, **options)), tensors, dys)
        case _:
            ys = results(f(*tensors, **options))
            return lambda: gradients(ys, tensors, dys, keep=True)


def row(
    case: Case,
    direction: str,
    times: dict[str, timing.Times],
    limits: dict[str, Any],
    errors: dict[str, float],
    memory: dict[str, int],
    notes: dict[str, str],
) -> dict[str, Any]:
    """One line of the result: the floor, who took how long, and how ``fused`` compares."""
    size, flops = case.work(direction)
    floors = {"memory": size / limits["copy"], "matmul": flops / limits["matmul"][case.dtype] if flops else 0.0}
    limit = max(floors, key=lambda name: floors[name])
    floor = floors[limit] * 1000  # ms
    medians = {name: t.median for name, t in times.items()}
    products = medians.pop(PRODUCTS, None)
    fused = medians.get("fused")
    peers = {name: medians[name] for name in PEERS if name in medians}
    best = min(peers, key=lambda name: peers[name]) if peers else None
    wrong = [name for name in OURS if errors.get(name, 0.0) > TOLERANCE[case.dtype]]
    return {
        "operation": case.operation.name,
        "form": case.form,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "direction": direction,
        "bytes": size,
        "flops": flops,
        "floor_ms": floor,
        "limit": limit,
        "ms": {name: asdict(t) for name, t in times.items() if name != PRODUCTS},
        "products_ms": products,
        "of_floor": {name: floor / ms for name, ms in medians.items()},
        "peak_bytes": memory,
        "error": {name: error if math.isfinite(error) else None for name, error in errors.items()},
        "vs_reference": medians["reference"] / fused if fused and "reference" in medians else None,
        "best_peer": best,
        "vs_best_peer": peers[best] / fused if fused and best else None,
        "verdict": f"WRONG: {', '.join(wrong)}" if wrong else "ok" if fused else "FAILED",
        "notes": notes,
    }


def overheads(
    operation: Operation, names: Sequence[str], dtype: str = "bf16", device: str = "cuda"
) -> dict[str, dict[str, float]]:
    """Microseconds of the program's time per call on a tiny shape, of whoever can do it: forward, while autograd takes
    note, and backward, if there is one. Where a graph is good for one way back only, backward is what it adds to
    forward."""
    case = Case(operation, next(iter(operation.forms)), operation.tiny, dtype)
    tensors, result = case.tensors(device), {}
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    for name, f in functions(case, names)[0].items():
        try:
            dys = [case.upstream(y) for y in results(f(*tensors, **case.options))]
            # Forward before and after: in a difference a bad moment of it would make the way back look short.
            took: dict[str, list[float]] = {}
            for direction in ("forward", *(d for d in operation.directions if d != "forward"), "forward"):
                call = _call(f, tensors, case.options, dys, direction)
                took.setdefault(direction, []).append(timing.launch_overhead(call, synchronize))
            result[name] = {direction: min(times) for direction, times in took.items()}
            if (both := result[name].pop("both", 0.0)) > result[name]["forward"]:
                result[name]["backward"] = both - result[name]["forward"]
        except Exception as error:
            report.note(f"{operation.name}: launch overhead of {name}: {report.because(error)}")
    return result


def block(operation: Operation, dtype: str = "bf16", device: str = "cuda") -> dict[str, Any]:
    """``fused`` ten times in a row, there and back, captured as a CUDA graph: how long the graph takes, how long its
    kernels take together, in ms, and the ratio; nothing if that cannot be done. The tensors are as large as in a step
    of a small model: in larger ones nobody would see the time between kernels."""
    case = Case(operation, next(iter(operation.forms)), operation.block, dtype)
    try:
        tensors, f = case.tensors(device), functions(case, ("fused",))[0]["fused"]
        dys = [case.upstream(y) for y in results(f(*tensors, **case.options))]
        replay = timing.captured(_call(f, tensors, case.options, dys, "both"), kernel_goals.BLOCK_CALLS)
        measure = timing.CudaClock(flush=False)
        whole = timing.round_robin({"graph": replay}, measure, seconds=0.2)["graph"].median
        kernels = timing.kernel_time(replay)
    except Exception as error:
        report.note(f"{operation.name}: captured calls: {report.because(error)}")
        return {}
    times = {"graph_ms": whole, "kernels_ms": kernels, "ratio": whole / kernels} if kernels > 0 else {}
    return times | {"case": str(case)} if times else {}


def run(
    only: str = "",
    shapes: str = "",
    dtypes: str = "bf16",
    quick: bool = False,
    minutes: float | None = None,
    out: Path | None = None,
) -> dict[str, Any] | None:
    """``hornbook bench kernels``; what was measured, or None without a CUDA GPU."""
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"minutes is a time to end in, above 0, not {minutes}")
    todo = cases(only, shapes, dtypes, quick)
    if minutes is None and quick:
        minutes = report.QUICK_MINUTES
    if not torch.cuda.is_available():
        if shapes:
            raise ConfigError(
                "--shapes says what is timed, but there is no CUDA GPU here: kernels are then compiled for their own "
                "classes of shapes, so leave it out"
            )
        formats = tuple(dict.fromkeys(case.dtype for case in todo))
        report.without_cuda({operation.name for operation in chosen(only)} if only else None, formats, quick, minutes)
        return None
    report.require_compiler()
    # Backward is timed many times through one graph: what forward saved must not be used up by the first.
    functorch: Any = importlib.import_module("torch._functorch.config")
    with functorch.patch(donated_buffer=False):
        return _run(todo if quick or minutes is None else in_order(todo), minutes, out)


def limits_of(measure: timing.Measure, dtypes: Iterable[str], device: str = "cuda") -> dict[str, Any]:
    """What the card can do: "copy", bytes per second, and "matmul", number format → operations per second."""
    rates = {dtype: timing.matmul_rate(measure, dtype, device) for dtype in dtypes}
    return {"copy": timing.copy_bandwidth(measure, device), "matmul": rates}


def _run(todo: list[Case], minutes: float | None, out: Path | None, device: str = "cuda") -> dict[str, Any]:
    began, limit = time.monotonic(), math.inf if minutes is None else 60 * minutes
    facts = report.machine()
    place = report.folder(out, facts["gpu"])
    measure = timing.CudaClock()
    needed = sorted({case.dtype for case in todo})
    limits = limits_of(measure, needed, device)
    result: dict[str, Any] = facts | {"benchmark": "kernels", "minutes": minutes, "limits": limits}
    result |= {"rows": [], "left_out": [], "overhead_us": {}, "blocks": {}}
    before = kernel_report.earlier(place, facts)
    print(kernel_report.limits_line(result), flush=True)
    for case in todo:
        spent = (time.monotonic() - began) / limit
        if spent > ROWS_SHARE:
            result["left_out"].append(str(case))
            continue
        needed_by_a_goal = any("torch.compile" in goal.peers for goal in kernel_goals.about(case))
        slow = spent > COMPILING_SHARE and not needed_by_a_goal
        names = [name for name in NAMES if not (slow and name == "torch.compile")]
        try:
            torch.cuda.empty_cache()
            rows = measure_case(
                case, measure, limits, device=device, names=names, seconds=1.0 if minutes is None else 0.3
            )
        except Exception as error:  # out of memory for the inputs themselves, or a GPU that has given up
            notes = {"all": report.because(error)}
            rows = [row(case, direction, {}, limits, {}, {}, notes) for direction in case.operation.directions]
        result["rows"] += rows
        for r in rows:
            if slow:
                r["notes"]["torch.compile"] = "not run, so that the run ends in time"
            r["goals"] = kernel_goals.of_row(r, facts["triton"])
            print(kernel_report.line(r), flush=True)
        kernel_report.save(result, place, before)
    names = [name for name in NAMES if not (minutes and name == "torch.compile")]
    for name, operation in {case.operation.name: case.operation for case in todo}.items():
        if (time.monotonic() - began) / limit > HOST_SHARE:
            result["left_out"].append(f"{name}: host time")
            continue
        try:
            result["overhead_us"][name] = overheads(operation, names, todo[0].dtype, device)
            result["blocks"][name] = block(operation, todo[0].dtype, device)
        except Exception as error:  # such as a GPU that has given up: the rows are still to be shown
            report.note(f"{name}: the program's own time: {report.because(error)}")
        kernel_report.save(result, place, before)
    result["seconds"] = time.monotonic() - began
    kernel_report.draw(kernel_report.save(result, place, before), place, {case.operation.name for case in todo})
    print("\n" + kernel_report.markdown(result))
    report.note(f"{place}: kernels.json, kernels.md and a plot per operation")
    print(json.dumps(kernel_report.digest(result) | {"out": str(place)}))
    return result
