"""Is this folder what a release should be? One sdist and a wheel for each system, of one version, tagged right, small.

    python .github/check_distributions.py dist --tag v0.1.0

Prints a line for each file; ends with status 1 and what is wrong.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

WHEELS = {
    "Linux x86-64": r"manylinux_2_17_x86_64\.manylinux2014_x86_64",
    "Linux aarch64": r"manylinux_2_17_aarch64\.manylinux2014_aarch64",
    "macOS arm64": r"macosx_11_0_arm64",
    "Windows x64": r"win_amd64",
}
MOST = {".whl": 6_000_000, ".gz": 3_000_000}  # bytes; a mistake in what is included shows here first


def faults(folder: Path, tag: str) -> list[str]:
    """What is wrong with the files of ``folder``, which a release ``tag`` ("v0.1.0", or "" for none) is made from."""
    files = sorted(folder.iterdir())
    wrong = [
        f"{file.name} has {file.stat().st_size:,} bytes, more than {MOST[file.suffix]:,}"
        for file in files
        if file.stat().st_size > MOST.get(file.suffix, 0)
    ]
    versions, known = set(), set()
    for what, tail in {"sdist": r"\.tar\.gz", **{w: rf"-cp311-abi3-{t}\.whl" for w, t in WHEELS.items()}}.items():
        found = [(file, m[1]) for file in files if (m := re.fullmatch(rf"hornbook-([\w.]+?){tail}", file.name))]
        known |= {file for file, _ in found}
        versions |= {version for _, version in found}
        if len(found) != 1:
            wrong.append(f"{what}: expected one file, found {len(found)}")
    wrong += [f"{file.name} does not belong here" for file in files if file not in known]
    if len(versions) > 1:
        wrong.append(f"files of several versions: {', '.join(sorted(versions))}")
    if tag and versions != {tag.removeprefix("v")}:
        wrong.append(f"the tag is {tag}, the version {', '.join(sorted(versions))}: change Cargo.toml or the tag")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tag", default="", help="the release's tag; not checked if empty")
    options = parser.parse_args()
    for file in sorted(options.folder.iterdir()):
        print(f"{file.stat().st_size:12,}  {file.name}")
    if wrong := faults(options.folder, options.tag):
        sys.exit("\n".join(wrong))


if __name__ == "__main__":
    main()
