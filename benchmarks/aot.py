"""Every kernel compiled for GPUs that are not here, and what the compiler made of it.

    python -m hornbook.benchmarks.aot --only attention --out table.md

Triton compiles for any CUDA GPU on any Linux machine, and ships the tools that look into the result. So for each
kernel, shape class, number format and GPU family: registers, bytes spilled (numbers that found no register and go to
memory and back), shared memory, tensor-core instructions, and whether global memory is read 16 bytes at a time. From
these follow how many programs a multiprocessor holds at once, and how many bytes they can have asked memory for: what
hides its latency. About 40 KB in flight a multiprocessor keep the memory of an H200 busy.

What is compiled is what is launched: the public functions are called on small tensors while `library.recording` writes
their launches down.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..kernels import interpreter
from .operations import OPERATIONS
from .timing import FORMATS

# Compute capability → shared memory that one program can have, in bytes. 89 stands for those of 99 KB (86, 89, 120).
TARGETS = {80: 166_912, 89: 101_376, 90: 232_448}
# Compute capability → what a multiprocessor holds at most: warps, programs, and bytes of shared memory, of which each
# program takes 1 KB more than it asks for.
HOLDS = {80: (64, 32, 167_936), 89: (48, 24, 102_400), 90: (64, 32, 233_472)}
POINTERS = {dtype: name for name, dtype in FORMATS.items()} | {torch.int32: "i32", torch.int64: "i64", torch.bool: "i1"}
KEY = ("operation", "kernel", "shape", "variant", "dtype", "target")
"""names a row"""
COLUMNS = (
    *KEY, "warps", "registers", "spilled", "shared", "programs", "loads", "wide_loads", "bytes", "in_flight", "stores",
    "wide_stores", "tensor_core", "wgmma", "stages",
)  # fmt: skip
SHOWN = tuple(c for c in COLUMNS if c not in ("operation", "stores", "wide_stores", "wgmma", "stages"))


@dataclass(frozen=True)
class Example:
    """A call whose launches are compiled."""

    operation: str
    shape: str
    dtype: str
    call: Callable[[], Any]
    look: Callable[[bytes], dict[str, Any]] | None = None
    """more columns, from the machine code"""


def examples() -> Iterator[Example]:
    """One call, forward and backward, of every shape class of every kernel."""
    for operation in OPERATIONS.values():
        for dtype in FORMATS:
            for shape, call in operation.examples(dtype):
                yield Example(operation.name, shape, dtype, call)


def candidates(only: frozenset[str]) -> Iterator[Example]:
    """The kernels among which attention's launch table chooses, if they are asked for: too many for every table."""
    from . import attention_candidates

    if attention_candidates.NAME in only:
        for shape, call in attention_candidates.examples():
            yield Example(attention_candidates.NAME, shape, "bf16", call, attention_candidates.inside)


@cache
def launches(only: frozenset[str]) -> list[tuple[Example, Any, dict[int, str]]]:
    """The launches of all examples; those that would compile to the same code are there once. The last part says for
    which of `TARGETS` it is made, and what tells it there from the others of its kernel in the same example: the
    arguments in which they differ."""
    from ..kernels import library

    found: dict[str, tuple[Example, Any, dict[int, str]]] = {}
    for example in (*examples(), *candidates(only)):
        if only and example.operation not in only:
            continue
        for target in TARGETS:
            with library.recording(target) as recorded:
                example.call()
            for launch in recorded:
                key = repr((launch.kernel.fn.__name__, *arguments(launch), launch.options))
                found.setdefault(key, (example, launch, {}))[2].setdefault(target, "")
    groups: dict[tuple[Any, ...], list[tuple[Any, dict[int, str]]]] = {}
    for example, launch, names in found.values():
        for target in names:
            key = (example.operation, launch.kernel.fn.__name__, example.shape, example.dtype, target)
            groups.setdefault(key, []).append((launch, names))
    for (*_, target), group in groups.items():
        for (_, names), name in zip(group, variants([launch for launch, _ in group]), strict=True):
            names[target] = name
    return list(found.values())


def variants(group: list[Any]) -> list[str]:
    """A name for each launch of one kernel: what differs among them, if need be more than its constants; nothing for a
    single one."""
    seen = []
    for launch in group:
        types, constants, aligned = arguments(launch)
        of = {name: str(constants.get(name, kind)) + " x16" * (name in aligned) for name, kind in types.items()}
        seen.append(of | {name: str(value) for name, value in launch.options.items()})
    differ = [name for name in seen[0] if len({of.get(name) for of in seen}) > 1]
    constant = [p.name for p in group[0].kernel.params if p.is_constexpr and p.name in differ]
    names = [[" ".join(f"{name}={of[name]}" for name in chosen) for of in seen] for chosen in (constant, differ)]
    return next((found for found in names if len(set(found)) == len(found)), names[-1])


def arguments(launch: Any) -> tuple[dict[str, str], dict[str, Any], list[str]]:
    """A launch as the compiler sees it: the types of arguments, the values that are compiled in, and the names of those
    that are multiples of 16, by which it knows that memory can be read in wide pieces."""
    types: dict[str, str] = {}
    constants: dict[str, Any] = {}
    aligned = []
    for parameter in launch.kernel.params:
        name, value = parameter.name, launch.arguments[parameter.name]
        special = not parameter.do_not_specialize
        if parameter.is_constexpr or (special and isinstance(value, int) and value == 1):  # Triton compiles a 1 in
            types[name], constants[name] = "constexpr", value
        elif isinstance(value, Tensor):
            types[name] = "*" + POINTERS[value.dtype]
            aligned.append(name)
        elif hasattr(value, "block_shape"):  # a tensor descriptor; Gluon's has a layout besides
            block, layout = ",".join(map(str, value.block_shape)), getattr(value, "layout", None)
            layout = "" if layout is None else f",{layout!r}"
            types[name] = f"tensordesc<{POINTERS[value.base.dtype]}[{block}]{layout}>"
        elif isinstance(value, float):
            types[name] = "fp32"
        else:
            types[name] = "i32" if abs(value) < 1 << 31 else "i64"
            aligned += [name] if special and value % 16 == 0 else []
    return types, constants, aligned


def build(launch: Any, target: int) -> Any:
    """Compile a recorded launch: Triton's object with ``asm`` and ``metadata``."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    Source: Any = ASTSource
    if launch.kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource as Source
    types, constants, aligned = arguments(launch)
    names = launch.kernel.arg_names
    source = Source(
        fn=launch.kernel,
        signature={name: types[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", target, 32), options=launch.options)


def compile_one(index: int, target: int, only: frozenset[str]) -> dict[str, Any]:
    """Compile the launch numbered ``index`` and look into what came out."""
    example, launch, names = launches(only)[index]
    row: dict[str, Any] = {
        "kernel": launch.kernel.fn.__name__,
        "operation": example.operation,
        "shape": example.shape,
        "variant": names[target],
        "dtype": example.dtype,
        "target": target,
        "warps": launch.options["num_warps"],
        "stages": launch.options["num_stages"],
    }
    try:
        compiled = build(launch, target)
    except Exception as error:  # whatever stops the compiler is what this table is for
        return row | {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:200]}"}
    row["shared"] = compiled.metadata.shared
    row |= inside(compiled.asm["ptx"], compiled.asm["cubin"])
    if example.look is not None:
        row |= example.look(compiled.asm["cubin"])
    warps = compiled.metadata.num_warps  # with those that it adds to a kernel which is specialised by warps
    row["programs"] = programs(target, warps, row["registers"], row["shared"])
    row["in_flight"] = row["programs"] * warps * 32 * row["bytes"]
    return row


def programs(target: int, warps: int, registers: int, shared: int) -> int:
    """How many programs a multiprocessor has room for at once.

    Registers, of which there are 65,536, are given to warps in pieces of 256, and to a quarter of the multiprocessor's
    warps each from a quarter of the registers; shared memory is given in pieces of 128 bytes.
    """
    most_warps, most_programs, memory = HOLDS[target]
    of_a_warp = -(-32 * max(registers, 1) // 256) * 256
    by_registers = 4 * (65_536 // 4 // of_a_warp) // (-(-warps // 4) * 4)
    by_memory = memory // (-(-(shared + 1024) // 128) * 128)
    return min(most_programs, most_warps // warps, by_registers, by_memory)


LOAD = re.compile(r"ld\.global\S*?(?:\.v(\d))?\.[bfus](\d+)\s|cp\.async\.c[ag]\S* \[[^]]*\], \[[^]]*\], (\w+)")


def bytes_at_once(ptx: str) -> int:
    """The bytes that a thread asks global memory for in a row, where it asks for most: between two labels, jumps or
    barriers. A thread waits at the first use of what it loads, so these can all be on their way together. Where a loop
    copies into shared memory ahead of time (cp.async), what earlier rounds asked for comes on top."""
    most = 0
    for stretch in re.split(r"^\s*\$\S+:|\bbra\b|\bbar\.sync\b|\bbarrier\b", ptx, flags=re.MULTILINE):
        size = 0
        for vector, bits, copied in LOAD.findall(stretch):
            size += int(copied, 0) if copied else int(vector or 1) * int(bits) // 8
        most = max(most, size)
    return most


def inside(ptx: str, cubin: bytes) -> dict[str, Any]:
    """What the code uses: instructions as Triton wrote them (PTX), and what the assembler needed for them."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing of registers: {usage[:200]!r}")

    def count(pattern: str) -> int:
        return len(re.findall(pattern, ptx))

    return {
        "registers": int(found[1]),
        "spilled": int(found[2]) + int(found[3]),
        "tensor_core": count(r"wgmma\.mma_async|mma\.sync"),
        "wgmma": count(r"wgmma\.mma_async"),
        "loads": count(r"ld\.global\S*|cp\.async\.c[ag]"),
        "wide_loads": count(
            r"ld\.global\S*\.v4\.(?:b32|f32|u32)|ld\.global\S*\.v2\.b64|cp\.async\.cg\S* \[[^]]*\], \[[^]]*\], 0x10"
        ),
        "bytes": bytes_at_once(ptx),
        "stores": count(r"st\.global"),
        "wide_stores": count(r"st\.global\S*\.v4\.(?:b32|f32|u32)|st\.global\S*\.v2\.b64"),
    }


def compile_all(
    progress: Callable[[int, int], None] | None = None,
    only: set[str] | None = None,
    targets: tuple[int, ...] = (),
    dtypes: tuple[str, ...] = (),
    seconds: float | None = None,
) -> list[dict[str, Any]]:
    """Compile everything, on all cores, in a process of its own (so that the interpreter may be on in this one).

    Args:
        progress: called with how many are done, and of how many; first with 0.
        only: operations; all if not given.
        targets: of `TARGETS`; all if not given.
        dtypes: number formats; all if not given.
        seconds: then it ends. What is not compiled by then is not in the result: of each kernel the last shape classes.

    Returns:
        A dictionary a kernel, shape class, number format and target; see `COLUMNS`. ``spilled`` is the memory that
        stands in for registers, of a thread, and ``shared`` the shared memory of a program, in bytes; ``programs`` is
        how many of them a multiprocessor holds; ``tensor_core`` and ``loads`` count instructions, ``wide_loads`` those
        of 16 bytes; ``bytes`` is what a thread can have asked memory for at once, and ``in_flight`` what all threads of
        a multiprocessor can (as far as registers hold it). ``error`` is there instead where the compiler failed.
    """
    environment = {name: value for name, value in os.environ.items() if name != interpreter.VARIABLE}
    command = [sys.executable, "-m", "hornbook.benchmarks.aot", "--rows"]
    command += ["--only", ",".join(sorted(only))] if only else []
    command += ["--targets", ",".join(map(str, targets))] if targets else []
    command += ["--dtypes", ",".join(dtypes)] if dtypes else []
    command += ["--seconds", str(seconds)] if seconds is not None else []
    rows = []
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            done = json.loads(line)
            rows += [done["row"]] if "row" in done else []
            if progress is not None:
                progress(len(rows), done["of"])
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    return sorted(rows, key=key)


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What tells a row from all others."""
    return tuple(row[name] for name in KEY)


def packed(rows: list[dict[str, Any]]) -> str:
    """The rows as JSON, with the names of columns once: a few thousand rows are a few hundred kilobytes then."""
    columns = [*COLUMNS, "error"] if any("error" in row for row in rows) else COLUMNS
    lines = ",\n".join(json.dumps([row.get(column) for column in columns]) for row in rows)
    return f'{{"columns": {json.dumps(columns)},\n"rows": [\n{lines}\n]}}\n'


def unpacked(text: str) -> list[dict[str, Any]]:
    """The rows of `packed`."""
    table = json.loads(text)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| " + " | ".join(c.replace("_", " ") for c in SHOWN) + " |", "|" + "---|" * len(SHOWN)]
    for row in rows:
        cells = [str(row.get(column, "")) for column in SHOWN]
        lines.append("| " + " | ".join(cells) + " |" + (f" {row['error']}" if "error" in row else ""))
    return "\n".join(lines) + "\n"


def cores() -> int:
    """How many this process may use; so many compile at a time."""
    return len(os.sched_getaffinity(0))


def in_turn(only: frozenset[str], dtypes: tuple[str, ...]) -> list[int]:
    """Which launches to compile: the first of each kernel, then the second, and so on, as there may not be time for
    all."""
    found: list[tuple[int, int]] = []
    kernels: Counter[str] = Counter()
    for i, (example, launch, _) in enumerate(launches(only)):
        if not dtypes or example.dtype in dtypes:
            kernel = launch.kernel.fn.__name__
            found.append((kernels[kernel], i))
            kernels[kernel] += 1
    return [i for _, i in sorted(found)]


def _compile_one(task: tuple[int, int, frozenset[str]]) -> dict[str, Any]:
    torch.set_num_threads(1)
    return compile_one(*task)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="operations, with commas between")
    parser.add_argument("--targets", default="", help="compute capabilities such as 80,90; all if not given")
    parser.add_argument("--dtypes", default="", help="number formats such as bf16,fp32; all if not given")
    parser.add_argument("--seconds", type=float, default=math.inf, help="end after so many, with what there is")
    parser.add_argument(
        "--out",
        type=Path,
        help="a JSON file with all rows; a Markdown file of the same name has those in bf16 for sm_90",
    )
    parser.add_argument("--rows", action="store_true", help="one line of JSON for each, as they are done")
    options = parser.parse_args()
    only = frozenset(filter(None, options.only.split(",")))
    targets = tuple(int(t) for t in options.targets.split(",") if t)
    dtypes = tuple(filter(None, options.dtypes.split(",")))
    if not options.rows:
        rows = compile_all(only=set(only), targets=targets, dtypes=dtypes)
        print(markdown(rows))
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.with_suffix(".json").write_text(packed(rows), encoding="utf-8")
            few = [row for row in rows if row["dtype"] == "bf16" and row["target"] == 90]
            options.out.with_suffix(".md").write_text(markdown(few), encoding="utf-8")
        return
    end = time.monotonic() + options.seconds
    tasks = [
        (i, target, only)
        for i in in_turn(only, dtypes)
        for target in targets or TARGETS
        if target in launches(only)[i][2]
    ]
    print(json.dumps({"of": len(tasks)}), flush=True)
    with multiprocessing.get_context("spawn").Pool(cores()) as pool:
        for row in pool.imap_unordered(_compile_one, tasks, chunksize=2):
            print(json.dumps({"row": row, "of": len(tasks)}), flush=True)
            if time.monotonic() > end:
                break


if __name__ == "__main__":
    main()
