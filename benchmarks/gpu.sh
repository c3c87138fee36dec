#!/usr/bin/env bash
# Everything that wants a CUDA GPU, in one go of at most ten minutes: the benchmarks, then the tests marked gpu.
#
#   benchmarks/gpu.sh              with the hornbook that is installed
#   benchmarks/gpu.sh WHEEL_DIR    with the newest hornbook wheel of that folder, which is installed first, and with it
#                                  the pure-Python wheels there whose package is missing. Nothing else is touched,
#                                  torch and triton least of all, and no network is needed.
#
# OUT       where results go, and a log of the whole; if not set, they go where `hornbook bench` puts them
# PYTHON    the interpreter; python3 if not set
#
# A part that fails, or runs out of its time, does not hide the ones after it. The status is 0 if all went well.
set -euo pipefail

python=${PYTHON:-python3}
failed=()
summary=()

in_python() { "$python" -P "$@"; } # -P: this folder's neighbours, such as kernels/, are not modules to import

part() { # NAME SECONDS COMMAND...
    local name=$1 limit=$2 start=$SECONDS status=0 word=ok
    shift 2
    printf '\n=== %s\n' "$name"
    timeout --kill-after=10 "$limit" "$@" || status=$?
    if [ "$status" -ne 0 ]; then
        failed+=("$name")
        word="FAILED (status $status)"
        if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
            word="FAILED (not done after $limit s)"
        fi
    fi
    summary+=("$(printf '%-20s %4d s  %s' "$name" $((SECONDS - start)) "$word")")
}

install_from() { # WHEEL_DIR
    local wheels=() wheel
    while IFS= read -r wheel; do
        wheels+=("$wheel")
    done < <(in_python - "$1" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for wheel in sorted(Path(sys.argv[1]).glob("*-none-any.whl")):
    try:
        version(wheel.name.split("-")[0])
    except PackageNotFoundError:
        print(wheel)
PYTHON
    )
    local pip=(-m pip install --quiet --no-index --no-deps --disable-pip-version-check)
    if [ ${#wheels[@]} -gt 0 ]; then
        printf 'missing, so installed: %s\n' "${wheels[@]##*/}"
        in_python "${pip[@]}" "${wheels[@]}"
    fi
    in_python "${pip[@]}" --find-links "$1" --force-reinstall hornbook
}

main() {
    if ! in_python -c 'import torch; raise SystemExit(not torch.cuda.is_available())'; then
        echo "gpu.sh: $python sees no CUDA GPU (or has no torch); run this where there is one" >&2
        return 1
    fi
    if [ -n "$wheel_dir" ]; then
        install_from "$wheel_dir"
    fi
    in_python -c '
import hornbook, torch, triton
print(f"hornbook {hornbook.__version__} ({hornbook.__file__}), torch {torch.__version__}, triton {triton.__version__}, "
      f"{torch.cuda.get_device_name()}")'

    local results=()
    if [ -n "${OUT:-}" ]; then
        results=(--out "$OUT")
    fi
    # Benchmarks first: of these one wants all, of tests the first minutes say most. What is left of ten minutes is
    # theirs, with half a minute to spare. Most of their time goes into compiling, so they share the cores if they can.
    part "bench kernels" 240 "$python" -P -m hornbook bench kernels --quick ${results[@]+"${results[@]}"}
    part "bench model" 110 "$python" -P -m hornbook bench model --quick ${results[@]+"${results[@]}"}
    local with_gpu_tests=() file parallel=()
    while IFS= read -r file; do
        with_gpu_tests+=("$file")
    done < <(grep -rl --include='test_*.py' 'mark\.gpu' tests | sort)
    if in_python -c 'import xdist' 2>/dev/null; then
        parallel=(-n 6 --dist loadgroup)
    fi
    part "tests" $((570 - SECONDS)) "$python" -P -m pytest -m gpu -p no:cacheprovider ${parallel[@]+"${parallel[@]}"} \
        "${with_gpu_tests[@]}"

    printf '\n=== %d s in all\n' "$SECONDS"
    printf '%s\n' "${summary[@]}"
    [ ${#failed[@]} -eq 0 ]
}

wheel_dir=
if [ $# -gt 1 ] || { [ $# -eq 1 ] && [ ! -d "$1" ]; }; then
    echo "usage: benchmarks/gpu.sh [WHEEL_DIR], a folder with wheels" >&2
    exit 2
fi
if [ $# -eq 1 ]; then
    wheel_dir=$(cd "$1" && pwd)
fi
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    OUT=$(cd "$OUT" && pwd)
    export OUT
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -n "${OUT:-}" ]; then
    main 2>&1 | tee "$OUT/gpu.log"
else
    main
fi
