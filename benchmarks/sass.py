"""What an attention kernel's machine code does beside its products of matrices.

    python -m hornbook.benchmarks.sass --head-dims 64,128 --out table.md

On sm_90 a product is issued (HGMMA) and later waited for (WARPGROUP.DEPBAR). Softmax's exponentials (MUFU.EX2) that
stand between the two run while the tensor cores work; those that do not, make them wait. So for every forward variant
that is timed on a GPU this compiles the kernel without one and counts, in its loops over keys, how many do.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..kernels import interpreter
from . import aot
from .timing import FORMATS

COLUMNS = (
    "variant", "block_m", "block_n", "warps", "stages", "head_dim", "form", "dtype", "triton", "registers", "spilled",
    "shared", "threads", "products", "exponentials", "beside", "error",
)  # fmt: skip


class Instruction(NamedTuple):
    address: int
    text: str

    @property
    def name(self) -> str:
        """Without the predicate: "HGMMA.64x64x16.F32.BF16"."""
        return self.text.removeprefix("@").split()[1 if self.text.startswith("@") else 0].rstrip(";")


def disassemble(cubin: bytes) -> str:
    """The machine code as text."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout


def instructions(sass: str) -> list[Instruction]:
    """In the order of addresses."""
    found = re.findall(r"/\*([0-9a-f]{4,6})\*/\s+([^/]*?)\s*;", sass)
    return sorted(Instruction(int(address, 16), text) for address, text in found)


def loops(code: list[Instruction]) -> list[list[Instruction]]:
    """The innermost loops that multiply matrices: back edges of the graph of blocks, to a block that every way to the
    jump leads through, and what lies between."""
    at = {instruction.address: i for i, instruction in enumerate(code)}
    jumps: dict[int, int] = {}  # from which instruction to which
    for i, instruction in enumerate(code):
        if instruction.name.startswith("BRA") and (target := re.search(r"0x([0-9a-f]+)", instruction.text)):
            jumps[i] = at[int(target[1], 16)]
    ends = {i for i, instruction in enumerate(code) if instruction.name.split(".")[0] in ("EXIT", "BRX", "RET")}
    leaders = sorted({0, *jumps.values(), *(i + 1 for i in {*jumps, *ends} if i + 1 < len(code))})
    block_of = dict(zip(leaders, range(len(leaders)), strict=True))
    last = [end - 1 for end in [*leaders[1:], len(code)]]
    after: list[set[int]] = [set() for _ in leaders]
    for block, i in enumerate(last):
        always = not code[i].text.startswith("@")
        if i in jumps:
            after[block].add(block_of[jumps[i]])
        if not (always and (i in jumps or i in ends)) and block + 1 < len(leaders):
            after[block].add(block + 1)
    before: list[set[int]] = [set() for _ in leaders]
    for block, following in enumerate(after):
        for next_ in following:
            before[next_].add(block)

    # Blocks that only an indirect jump leads to (BRX: how warps find their part of the work) are entrances, too.
    entrances, reached = set[int](), set[int]()
    for block in range(len(leaders)):
        if block == 0 or (block not in reached and before[block] <= {block}):
            entrances.add(block)
            todo = [block]
            while todo:
                if (b := todo.pop()) not in reached:
                    reached.add(b)
                    todo += after[b]
    everything = set(range(len(leaders)))
    through = [{b} if b in entrances else everything for b in everything]  # blocks on every way to a block
    changed = True
    while changed:
        changed = False
        for block in everything - entrances:
            now = {block} | set.intersection(everything, *(through[b] for b in before[block]))
            changed |= now != through[block]
            through[block] = now

    found: dict[int, set[int]] = {}
    for block, following in enumerate(after):
        for head in following & through[block]:
            body, todo = {head}, [block]
            while todo:
                if (b := todo.pop()) not in body:
                    body.add(b)
                    todo += before[b]
            found[head] = found.get(head, set()) | body
    multiply = {
        head: body
        for head, body in found.items()
        if any(code[i].name.startswith("HGMMA") for b in body for i in range(leaders[b], last[b] + 1))
    }
    inner = [body for body in multiply.values() if not any(other < body for other in multiply.values())]
    return [[code[i] for b in sorted(body) for i in range(leaders[b], last[b] + 1)] for body in inner]


def beside(loop: list[Instruction]) -> tuple[int, int]:
    """Exponentials of a round of a loop, and those of them that stand between a product and the wait for it."""
    groups = everything = overlapped = 0
    issued = False  # products of a group that is not closed yet
    for round_ in range(2):  # what the first leaves under way, the second begins with
        everything = overlapped = 0
        for instruction in loop:
            if instruction.name.startswith("HGMMA"):
                closed = "gsb0" in instruction.text
                issued, groups = not closed, groups + closed
            elif instruction.name.startswith("WARPGROUP.DEPBAR"):
                left = re.search(r"gsb0,\s*0x([0-9a-f]+)", instruction.text)
                groups = min(groups, int(left[1], 16) if left else 0)
            elif instruction.name.startswith("MUFU.EX2"):
                everything += 1
                overlapped += issued or groups > 0
        del round_
    return everything, overlapped


def overlap(sass: str) -> dict[str, Any]:
    """Of the loops over keys: ``exponentials`` (MUFU.EX2 of one round of each), how many of them run ``beside`` a
    product, and the same as pairs for each loop, in the order of addresses."""
    pairs = [beside(loop) for loop in loops(instructions(sass))]
    return {"exponentials": sum(n for n, _ in pairs), "beside": sum(n for _, n in pairs), "loops": pairs}


def launches(head_dim: int, causal: bool, dtype: str) -> Iterator[tuple[Any, Any]]:
    """Every candidate of the fast forward kernels with what it launches."""
    from ..kernels import attention_gluon, attention_pipelined, library

    q = torch.empty(2, 1024, 4, head_dim, dtype=FORMATS[dtype])
    k = torch.empty(2, 1024, 2, head_dim, dtype=FORMATS[dtype])
    for module in (attention_pipelined, attention_gluon):
        for choice in module.CANDIDATES.get(head_dim, ()):
            with library.recording() as recorded:
                module.forward(q, k, k, 0.1, causal, choice)
            yield choice, recorded[0]


def compile_variant(choice: Any, launch: Any) -> dict[str, Any]:
    """A candidate compiled for sm_90: what it needs and what it does side by side."""
    import triton

    row: dict[str, Any] = choice._asdict() | {"triton": triton.__version__}
    try:
        compiled = aot.build(launch, 90)
    except Exception as error:  # whatever stops the compiler is what this table is for
        return row | {"error": f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:200]}"}
    found, sass = aot.inside(compiled.asm["ptx"], compiled.asm["cubin"]), disassemble(compiled.asm["cubin"])
    row |= {"registers": found["registers"], "spilled": found["spilled"], "shared": compiled.metadata.shared}
    row |= {"threads": 32 * compiled.metadata.num_warps, "products": sass.count("HGMMA.")}
    return row | overlap(sass)


def rows(head_dims: tuple[int, ...], dtypes: tuple[str, ...] = ("bf16",)) -> Iterator[dict[str, Any]]:
    """A row for each candidate, full and causal. Not where the interpreter is on: it hides kernels from the
    compiler."""
    for head_dim in head_dims:
        for causal in (True, False):
            for dtype in dtypes:
                for choice, launch in launches(head_dim, causal, dtype):
                    form = {"head_dim": head_dim, "form": "causal" if causal else "full", "dtype": dtype}
                    yield compile_variant(choice, launch) | form


def compile_all(*arguments: str) -> list[dict[str, Any]]:
    """`rows` in a process of its own, so that the interpreter may be on in this one; arguments as on the command
    line."""
    environment = {name: value for name, value in os.environ.items() if name != interpreter.VARIABLE}
    command = [sys.executable, "-m", "hornbook.benchmarks.sass", "--rows", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    lines = ["| " + " | ".join(c.replace("_", " ") for c in COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in COLUMNS) + " |" for row in table]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--head-dims", default="64,128", help="with commas between")
    parser.add_argument("--dtypes", default="bf16", help="bf16, fp16")
    parser.add_argument("--rows", action="store_true", help="one line of JSON for each, as they are done")
    parser.add_argument("--out", type=Path, help="a Markdown file")
    options = parser.parse_args()
    table = []
    for row in rows(tuple(int(d) for d in options.head_dims.split(",")), tuple(options.dtypes.split(","))):
        table.append(row)
        if options.rows:
            print(json.dumps(row), flush=True)
    if not options.rows:
        print(markdown(table))
    if options.out:
        options.out.write_text(markdown(table), encoding="utf-8")


if __name__ == "__main__":
    main()
