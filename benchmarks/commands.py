"""What ``hornbook bench`` does: dataclasses like those in `hornbook.commands`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """Time every kernel on this machine's GPU, against the card's limits, its goals, PyTorch and other libraries.

    Writes kernels.json, kernels.md and a plot for each operation; the last line of the output is JSON. What is there
    of the same card, versions and day, and of other operations, stays, so that the parts of a benchmark add up. Without
    a CUDA GPU it prints how the kernels compile for GPUs: about eight minutes on two cores, less with more cores or
    where Triton has done it before.
    """

    only: Annotated[str, arg(metavar="OP,...")] = ""
    """operations, such as softmax,attention; all if not given"""
    shapes: Annotated[str, arg(metavar="OP=SHAPE,...;...")] = ""
    """in place of the usual ones, such as "softmax=8192x4096,1024x50257;attention=4x2048x16x64" (rows and columns; for
    attention sequences, tokens, heads and channels of a head). Not without a CUDA GPU"""
    dtypes: str = "bf16"
    """number formats, of bf16, fp16 and fp32"""
    quick: bool = False
    """fewer shapes and repetitions (without a CUDA GPU: sm_90 only), to end within four minutes; what there is no time
    for is named"""
    minutes: float | None = None
    """end within so many; what goals need comes first, and what there is no time for is named"""
    out: Path | None = None
    """the folder for results; if not given, one named after card and date, in benchmarks/results of a checkout
    (hornbook's own, or the working directory), else in ./benchmark-results"""

    def run(self) -> None:
        from .kernels import run

        if (result := run(self.only, self.shapes, self.dtypes, self.quick, self.minutes, self.out)) is None:
            return
        if bad := [r for r in result["rows"] if r["verdict"] != "ok"]:
            sys.exit(f"hornbook: {len(bad)} of {len(result['rows'])} rows are wrong or failed: see the column 'check'")


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Time attention on this machine's GPU: against its matrix products and memory, goals, PyTorch's own, flash-attn.

    Writes attention.json, attention.md and plots of TFLOP/s over lengths; the option variants writes its own JSON and
    Markdown, and attention-table.txt, the rows for kernels/attention_table.py. The last line of output is JSON. What
    is there of the same card, versions and day, and of other cases, stays. Without a CUDA GPU it compiles the kernels
    that variants would time for sm_90, and prints registers, spills, shared memory and what overlaps.
    """

    only: Annotated[str, arg(metavar="WHAT,...")] = ""
    """of forward, backward, window, decode, full, gqa, documents, widths (head_dim 96, 192, 256) and softcap; all if
    not given"""
    dtypes: str = "bf16"
    """number formats, of bf16, fp16 and fp32"""
    quick: bool = False
    """fewer shapes and repetitions, to end within four minutes; what there is no time for is named"""
    minutes: float | None = None
    """end within so many; what goals need comes first, and what there is no time for is named"""
    out: Path | None = None
    """the folder for results, as for ``hornbook bench kernels``"""
    variants: bool = False
    """time every kernel that could compute attention, and print the rows of the launch table that are fastest on this
    GPU"""

    def run(self) -> None:
        from .attention import run

        if (result := run(self.only, self.dtypes, self.quick, self.minutes, self.out, self.variants)) is None:
            return
        if self.variants and not result["rows"]:
            sys.exit("hornbook: no kernel could be timed: see the notes")
        if not self.variants and (bad := [r for r in result["rows"] if r["verdict"] != "ok"]):
            sys.exit(f"hornbook: {len(bad)} of {len(result['rows'])} rows are wrong or failed: see the column 'check'")


@dataclass(frozen=True, kw_only=True)
class Model:
    """Time a model's training step and decoding step with each set of kernels.

    Writes model.json and model.md; the last line of the output is JSON. Without a CUDA GPU it prints how the kernels
    compile for GPUs.
    """

    preset: str = "gpt2"
    """the model's shape"""
    device: str = "auto"
    """auto, cuda, or cpu (where only reference and torch are timed)"""
    batch_size: int | None = None
    """rows of a training step; if not given, the most that every set of kernels has memory for, up to 16"""
    quick: bool = False
    """fewer repetitions"""
    out: Path | None = None
    """the folder for results, as for ``hornbook bench kernels``"""

    def run(self) -> None:
        from .model import run

        result = run(self.preset, self.device, self.quick, self.batch_size, self.out)
        if result is not None and (bad := [*result["first_step"]["wrong"], *result["failed"]]):
            sys.exit(f"hornbook: wrong or failed: {', '.join(bad)}; see the end of the table")


@dataclass(frozen=True, kw_only=True)
class Start:
    """Time how long ``hornbook --help`` and ``from hornbook import Tokenizer`` take, each in a process of its own.

    The goals are half a second and a quarter, without loading torch. The last line of the output is JSON.
    """

    rounds: int = 5
    """how often; the best counts"""
    out: Path | None = None
    """a file to write the JSON to"""

    def run(self) -> None:
        from .start import run

        if bad := [row["name"] for row in run(self.rounds, self.out)["rows"] if row["loads"]]:
            sys.exit(f"hornbook: what should be light is not: {', '.join(bad)}")


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """Time the tokenizer against other libraries, which take turns with it in processes of their own.

    Writes tokenizer-DATE.json, .md, .svg and .png; the last line of the output is JSON. All of it takes about a quarter
    of an hour on two cores that have nothing else to do. The libraries come with the extra peers; those that are not
    there are named and left out.
    """

    only: Annotated[str, arg(metavar="WHAT,...")] = ""
    """of train, encode, decode, latency, worst and load; all if not given. What is done is in the files' names"""
    text: Path | None = None
    """a file or folder to use; if not given, bench/en.jsonl.zst and bench/multi.jsonl.zst in the folder that
    HORNBOOK_DATA names, else the bible and fables, and in both cases Python's standard library"""
    vocabulary: str = "cl100k_base"
    """cl100k_base or another that tiktoken knows, the path of a tokenizer, or "trained" for one that is trained on the
    spot"""
    peers: Annotated[str, arg(metavar="NAME,...")] = ""
    """libraries to compare with, or X.py for an adapter of your own; all if not given"""
    python: Annotated[str, arg(metavar="NAME=PATH,...")] = ""
    """the Python that has a library, such as tokenizers-1.0=env/bin/python; without a name, everybody's"""
    rounds: int = 5
    """of turns; training does half as many"""
    threads: int = 2
    """how many "several threads" are"""
    quick: bool = False
    """a little of everything, in a few seconds; the numbers mean nothing"""
    out: Path | None = None
    """the folder for results, as for ``hornbook bench kernels``"""

    def run(self) -> None:
        from .tokenizer import run

        result = run(
            self.only,
            self.text,
            self.vocabulary,
            self.peers,
            self.python,
            self.rounds,
            self.threads,
            self.quick,
            self.out,
        )
        bad = [r for r in result["rows"] if r["peer"] == "hornbook" and (r["lost"] or r["check"].get("differ"))]
        if bad:
            sys.exit(f"hornbook: {len(bad)} of its own rows are wrong or failed: {', '.join(r['title'] for r in bad)}")
