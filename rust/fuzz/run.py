"""Builds the fuzz targets and runs them, each for some seconds, several at a time.

    python rust/fuzz/run.py                          # all, 30 s each
    python rust/fuzz/run.py --seconds 600 encode     # one, for longer

It needs a nightly Rust, for AddressSanitizer, and a C++ compiler, for libFuzzer; the flags are those that cargo-fuzz
gives, and `cargo fuzz run --fuzz-dir rust/fuzz encode` does the same. What a target found lies in artifacts/, what it
learnt in corpus/, where the next run goes on. An input that broke something belongs into rust/tests/seeds.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
SEEDS = HERE.parent / "tests" / "seeds"
FLAGS = (
    "--cfg=fuzzing",
    "-Cdebug-assertions",
    "-Coverflow-checks",
    "-Zsanitizer=address",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
)
SLOWEST = 20  # seconds for one input; more is a hang
MEMORY = 4096  # megabytes


def targets() -> list[str]:
    """The names in Cargo.toml."""
    return [binary["name"] for binary in tomllib.loads((HERE / "Cargo.toml").read_text("utf-8"))["bin"]]


def missing() -> str | None:
    """What this machine lacks, if anything."""
    if not shutil.which("cargo"):
        return "cargo"
    if subprocess.run(["cargo", "+nightly", "--version"], capture_output=True).returncode:
        return "a nightly Rust (rustup toolchain install nightly)"
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        return "a C++ compiler"
    return None


def build() -> Path:
    """Builds all targets and returns the folder where they are."""
    version = subprocess.run(["rustc", "+nightly", "-vV"], capture_output=True, text=True, check=True).stdout
    host = re.search(r"^host: (.+)$", version, re.MULTILINE)[1]  # type: ignore[index]
    folder = Path(os.environ.get("CARGO_TARGET_DIR", HERE / "target")).absolute()
    # Naming the platform keeps the flags from what runs during the build.
    command = ["cargo", "+nightly", "build", "--locked", "--release", "--bins", f"--target={host}"]
    environment = os.environ | {"CARGO_TARGET_DIR": str(folder), "CARGO_ENCODED_RUSTFLAGS": "\x1f".join(FLAGS)}
    subprocess.run(command, cwd=HERE, env=environment, check=True)
    return folder / host / "release"


def run(binary: Path, seconds: int) -> tuple[str, int, str]:
    """Runs a target and returns its name, its exit status, and what it wrote."""
    name = binary.name
    corpus, artifacts = HERE / "corpus" / name, HERE / "artifacts" / name
    corpus.mkdir(parents=True, exist_ok=True)
    artifacts.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-timeout={SLOWEST}", f"-rss_limit_mb={MEMORY}", "-print_final_stats=1"]
    command = [binary, *options, f"-artifact_prefix={artifacts}{os.sep}", corpus, SEEDS / name]
    # No search for leaks, neither between inputs nor at the end, which only the environment forbids: a thread that
    # reads a file may outlive the input that began it, and what it holds then is no leak.
    environment = os.environ | {"ASAN_OPTIONS": f"{os.environ.get('ASAN_OPTIONS', '')}:detect_leaks=0".lstrip(":")}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
    return name, done.returncode, done.stdout.decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="*", help=f"some of: {', '.join(targets())}")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if unknown := set(arguments.target) - set(targets()):
        parser.error(f"no target {', '.join(unknown)}")
    if lacking := missing():
        print(f"cannot fuzz: this machine lacks {lacking}", file=sys.stderr)
        return 2
    folder = build()
    failed = 0
    with ThreadPoolExecutor(arguments.jobs) as pool:
        jobs = [pool.submit(run, folder / name, arguments.seconds) for name in arguments.target or targets()]
        for job in jobs:
            name, status, output = job.result()
            last = [line for line in output.splitlines() if " cov: " in line][-1:]
            print(f"{name:8} {'ok' if status == 0 else 'FAILED'} {''.join(last)}", flush=True)
            if status:
                failed += 1
                print(output[-8000:], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
