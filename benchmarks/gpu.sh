#!/usr/bin/env bash
# Everything that wants a CUDA GPU, in parts that take at most ten minutes each: benchmarks, and the tests marked gpu.
#
#   benchmarks/gpu.sh [WHEEL_DIR] [--part PART]...
#
# WHEEL_DIR   a folder: its newest hornbook wheel is installed first, and with it the pure-Python wheels there whose
#             package is missing. Nothing else is touched, torch and triton least of all, and no network is needed.
#             If not given, it is the hornbook that is installed that is run.
# --part      if not given, quick, model and tests one after the other, in ten minutes. Else, in the order of the line:
#
#   part        minutes   what
#   quick          4      every kernel at a shape or two
#   norms          8      layer_norm, rms_norm, add_norm at all shapes: their goals
#   softmax        4      softmax: its goals
#   losses         6      cross_entropy, linear_cross_entropy, sample_logits: theirs
#   pointwise      5      gelu, relu2, swiglu, rope: theirs
#   attention      8      attention at all lengths, windows, decoding: its goals
#   variants       8      every kernel that could compute attention: prints the rows of kernels/attention_table.py
#   sanitizer      9      attention's kernels, on small shapes, under compute-sanitizer's memcheck and racecheck, which is
#                         looked for on PATH, in CUDA's folders and in Python packages; without it the part fails and
#                         says so
#   model          2      a training step and a decoding step
#   tests          9      pytest -m gpu; in a line of several parts what they leave of ten minutes, if that is more than 1
#
# The minutes are limits, each with a minute and a half for what takes longer than it should; what there is no time for
# is named. Norms, softmax, losses and pointwise are about every goal of benchmarks/kernel_goals.py, and take less than
# half an hour together; attention is about those of benchmarks/attention_goals.py. A new GPU family first wants variants:
# attention is as fast as its table says, and that is filled from what variants prints. What goals need comes first;
# results are written after every row, and parts of one day add up in one folder, so that nothing is lost when one is
# stopped.
#
# OUT       where results go, and a log of each line; if not set, they go where `hornbook bench` puts them
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

kernels() { # MINUTES OPTIONS...
    local minutes=$1
    shift
    bench "$minutes" kernels "$@"
}

bench() { # MINUTES BENCHMARK OPTIONS...
    local minutes=$1
    shift
    part "$name" $((60 * minutes + 90)) "$python" -P -m hornbook bench "$@" ${results[@]+"${results[@]}"}
}

tests() {
    local with_gpu_tests=() file parallel=() left=$((570 - SECONDS))
    while IFS= read -r file; do
        with_gpu_tests+=("$file")
    done < <(grep -rl --include='test_*.py' 'mark\.gpu' tests | sort)
    # Most of their time goes into compiling, so they share the cores if they can. The options of pyproject.toml ask for
    # that too, and are an error where xdist is not installed: so they are replaced.
    if in_python -c 'import xdist' 2>/dev/null; then
        parallel=(-n 6 --dist loadgroup)
    fi
    part tests $((left > 60 ? left : 60)) "$python" -P -m pytest -o addopts="--import-mode=importlib -q" -m gpu \
        -p no:cacheprovider ${parallel[@]+"${parallel[@]}"} "${with_gpu_tests[@]}"
}

install_from() { # WHEEL_DIR
    local wheels=() wheel
    while IFS= read -r wheel; do
        wheels+=("$wheel")
    done < <(in_python - "$1" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

folder = Path(sys.argv[1])
for wheel in sorted([*folder.glob("*-none-any.whl"), *folder.glob("nvidia_cuda_sanitizer_api-*.whl")]):
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
    local name
    for name in "${parts[@]}"; do
        case $name in
            quick) kernels 4 --quick ;;
            norms) kernels 8 --only layer_norm,rms_norm,add_norm --minutes 8 ;;
            softmax) kernels 4 --only softmax --minutes 4 ;;
            losses) kernels 6 --only cross_entropy,linear_cross_entropy,sample_logits --minutes 6 ;;
            pointwise) kernels 5 --only gelu,relu2,swiglu,rope --minutes 5 ;;
            attention) bench 8 attention --minutes 8 ;;
            variants) bench 8 attention --variants --minutes 8 ;;
            sanitizer) part sanitizer 570 "$python" -P -m hornbook.benchmarks.sanitizer --minutes 9 ;;
            model) part model 110 "$python" -P -m hornbook bench model --quick ${results[@]+"${results[@]}"} ;;
            tests) tests ;;
        esac
    done

    printf '\n=== %d s in all\n' "$SECONDS"
    printf '%s\n' "${summary[@]}"
    [ ${#failed[@]} -eq 0 ]
}

usage() {
    echo "usage: benchmarks/gpu.sh [WHEEL_DIR] [--part PART]...; a folder with wheels, and parts of: ${known[*]}" >&2
    exit 2
}

known=(quick norms softmax losses pointwise attention variants sanitizer model tests)
parts=()
wheel_dir=
while [ $# -gt 0 ]; do
    if [ "$1" = --part ]; then
        [[ " ${known[*]} " == *" ${2:-} "* ]] || usage
        parts+=("$2")
        shift 2
    else
        if [ -n "$wheel_dir" ] || [ ! -d "$1" ]; then
            usage
        fi
        wheel_dir=$(cd "$1" && pwd)
        shift
    fi
done
if [ ${#parts[@]} -eq 0 ]; then
    parts=(quick model tests) # of benchmarks one wants all, of tests the first minutes say most
fi
if [ -n "${OUT:-}" ]; then
    mkdir -p "$OUT"
    OUT=$(cd "$OUT" && pwd)
    export OUT
fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -n "${OUT:-}" ]; then
    main 2>&1 | tee -a "$OUT/gpu.log"
else
    main
fi
