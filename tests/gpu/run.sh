#!/usr/bin/env bash
# Everything of moed that needs an NVIDIA GPU: builds without gRPC, tests, sanitizers, benchmarks. Needs no network.
# Usage: tests/gpu/run.sh [--prefix DIR] [--jobs N] [--out DIR] [--with-nccl] [--emulation] [STEP ...]
#   --prefix DIR   where Abseil, spdlog, nlohmann_json, CLI11 and GoogleTest are installed, if not in /usr
#   --out DIR      for logs and RESULTS.md (default build/gpu/results); steps add to it, so that they can be run one by one
#   --with-nccl    also the steps that need NCCL
#   --emulation    tries the steps on tests/cuda_emulation instead of a GPU, with small sizes; proves nothing about a GPU
# Steps, in order; each ends within 9 minutes:
#   check build ops ranks engine memcheck racecheck synccheck initcheck gemm attention layer step nccl table
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

limit_s=540
all_steps=(check build ops ranks engine memcheck racecheck synccheck initcheck gemm attention layer step nccl table)
prefix="" jobs=$(nproc) out="" with_nccl="" emulation="" steps=()
while [ $# -gt 0 ]; do
  case "$1" in
    --prefix) prefix=$(realpath "${2:?--prefix needs a directory}"); shift 2 ;;
    --jobs) jobs=${2:?--jobs needs a number}; shift 2 ;;
    --out) out=${2:?--out needs a directory}; shift 2 ;;
    --with-nccl) with_nccl=1; shift ;;
    --emulation) emulation=1; shift ;;
    -*) sed -n '2,10p' "$0"; exit 2 ;;
    *) steps+=("$1"); shift ;;
  esac
done
[ ${#steps[@]} -gt 0 ] || steps=("${all_steps[@]}")

fail() { echo "gpu/run: $*" >&2; exit 1; }
say() { echo "gpu/run: $*"; }

if [ -n "$emulation" ]; then
  build=${MOED_GPU_BUILD:-build/gpu-emulation} device='*cuda_emulation*' engine_test=emulated_cuda_test virtual_ranks=2 tiny=(--tiny)
else
  build=${MOED_GPU_BUILD:-build/gpu} device='*cuda*' engine_test=cuda_engine_test virtual_ranks=2,4,8 tiny=()
fi
out=${out:-$build/results}
mkdir -p "$out"
op_tests=(gemm_test moe_ops_test attention_test sampling_test packed_gemm_test)
[ -z "$prefix" ] || export LD_LIBRARY_PATH="$prefix/lib:$prefix/lib/$(uname -m)-linux-gnu:${LD_LIBRARY_PATH:-}"

# record STEP RESULT TEXT: a line for the last table.
record() {
  local lines="$out/steps.txt"
  touch "$lines"
  grep -v "^$1|" "$lines" >"$lines.new" || true
  echo "$1|$2|$3" >>"$lines.new"
  mv "$lines.new" "$lines"
}

# limited LOG COMMAND...: until the step's time is up; output to the log and its end to the terminal.
limited() {
  local log="$out/$1" left=$((deadline > SECONDS ? deadline - SECONDS : 1)); shift
  if timeout "$left" "$@" >>"$log" 2>&1; then tail -n 3 "$log"; return 0; fi
  tail -n 40 "$log"
  return 1
}

find_nvcc() { command -v nvcc || { [ -x /usr/local/cuda/bin/nvcc ] && echo /usr/local/cuda/bin/nvcc; }; }
find_sanitizer() {
  command -v compute-sanitizer || { [ -x /usr/local/cuda/bin/compute-sanitizer ] && echo /usr/local/cuda/bin/compute-sanitizer; }
}

# Has a header of the library, under the prefix or /usr.
has_header() {
  local root
  for root in ${prefix:+"$prefix" "$prefix/usr"} /usr /usr/local; do [ -e "$root/include/$1" ] && return 0; done
  return 1
}

check() {
  local missing=()
  [ -n "$emulation" ] || [ -n "$(find_nvcc)" ] || missing+=("nvcc (CUDA toolkit 12.8 or later)")
  [ -n "$emulation" ] || nvidia-smi -L >"$out/gpus.txt" 2>&1 || missing+=("a GPU that nvidia-smi shows")
  for tool in cmake g++; do command -v "$tool" >>"$out/check.log" || missing+=("$tool"); done
  command -v ninja >>"$out/check.log" || command -v make >>"$out/check.log" || missing+=("ninja or make")
  has_header absl/status/statusor.h || missing+=("Abseil 20220623 or later (Debian: libabsl-dev)")
  has_header spdlog/spdlog.h || missing+=("spdlog (libspdlog-dev)")
  has_header nlohmann/json.hpp || missing+=("nlohmann_json (nlohmann-json3-dev)")
  has_header CLI/CLI.hpp || missing+=("CLI11 (libcli11-dev)")
  has_header gtest/gtest.h && has_header gmock/gmock.h || missing+=("GoogleTest (libgtest-dev libgmock-dev)")
  [ -n "$emulation" ] || [ -n "$(find_sanitizer)" ] || say "there is no compute-sanitizer; its steps will be skipped"
  if [ ${#missing[@]} -gt 0 ]; then
    printf 'gpu/run: missing: %s\n' "${missing[@]}" >&2
    fail "install these, or unpack them under a directory and give it as --prefix (see tests/gpu/README.md)"
  fi
  [ -n "$emulation" ] || cat "$out/gpus.txt"
}

build() {
  local generator=(-G "Unix Makefiles") arguments=(-DCMAKE_BUILD_TYPE=Release -DMOED_WITH_RPC=OFF -DMOED_BUILD_TESTS=ON)
  local targets=("${op_tests[@]}" "$engine_test" virtual_ranks_test gpu-bench)
  command -v ninja >>"$out/check.log" && generator=(-G Ninja)
  [ -z "$prefix" ] || arguments+=("-DCMAKE_PREFIX_PATH=$prefix;$prefix/usr")
  if [ -n "$emulation" ]; then
    targets+=(cuda_backend_test)
  else
    arguments+=(-DMOED_WITH_CUDA=ON)
    [ -z "${MOED_GPU_ARCHITECTURES:-}" ] || arguments+=("-DCMAKE_CUDA_ARCHITECTURES=$MOED_GPU_ARCHITECTURES")
  fi
  : >"$out/build.log"
  limited build.log cmake -S . -B "$build" "${generator[@]}" "${arguments[@]}" || return 1
  limited build.log cmake --build "$build" -j "$jobs" --target "${targets[@]}"
}

# run_test LOG PROGRAM [ARGUMENT...]: one GoogleTest program, which must run at least one test and skip none.
run_test() {
  local log=$1; shift
  limited "$log" "$@" || return 1
  ! grep -q "\[  SKIPPED \]\|0 tests from 0" "$out/$log"
}

# Every op test on the device, with inputs that are new each time and outputs that are poisoned, against float32 references.
ops() {
  local seed=${MOED_TEST_SEED:-$(date +%s)} status=0
  : >"$out/ops.log"
  echo "MOED_TEST_SEED=$seed" | tee -a "$out/ops.log"
  for test in "${op_tests[@]}"; do
    MOED_TEST_SEED=$seed run_test ops.log "$build/bin/$test" --gtest_filter="$device" || status=1
  done
  [ -z "$emulation" ] || run_test ops.log "$build/bin/cuda_backend_test" || status=1
  return $status
}

ranks() {
  : >"$out/ranks.log"
  MOED_VIRTUAL_RANKS=$virtual_ranks run_test ranks.log "$build/bin/virtual_ranks_test"
}

engine() {
  : >"$out/engine.log"
  run_test engine.log "$build/bin/$engine_test"
}

# compute-sanitizer on the op tests; three of them are the shared memory and barriers of every kernel that has such.
sanitize() {
  local tool=$1 sanitizer status=0
  if [ -n "$emulation" ]; then
    say "$tool: the emulation checks memory and barriers itself, in the asan step of tests/run.sh"
    return 3
  fi
  sanitizer=$(find_sanitizer) || { say "$tool: no compute-sanitizer"; return 3; }
  : >"$out/$tool.log"
  for test in gemm_test moe_ops_test packed_gemm_test attention_test; do
    limited "$tool.log" "$sanitizer" --tool "$tool" --error-exitcode 9 \
      "$build/bin/$test" --gtest_filter="$device" || status=1
  done
  return $status
}
memcheck() { sanitize memcheck; }
racecheck() { sanitize racecheck; }
synccheck() { sanitize synccheck; }
initcheck() { sanitize initcheck; }

bench() {
  local part=$1; shift
  rm -f "$out/$part.md" "$out/$part.log"
  limited "$part.log" "$build/bin/gpu-bench" "$part" --out "$out/$part.md" "${tiny[@]}" "$@"
}
gemm() { bench gemm; }
attention() { bench attention; }
layer() { bench layer; }
step() {
  local config=tests/bench/shapes/qwen3-30b-a3b/config.json
  [ -z "$emulation" ] || config=config/demo/config.json
  bench step --config-json "$config"
}

# The communicator over real NCCL: on one GPU as processes that meet through sockets on loopback.
nccl() {
  [ -n "$with_nccl" ] || { say "nccl: only with --with-nccl"; return 3; }
  [ -x tests/gpu/nccl.sh ] || { say "nccl: tests/gpu/nccl.sh is not there"; return 3; }
  : >"$out/nccl.log"
  limited nccl.log tests/gpu/nccl.sh "$build"
}

table() {
  local results="$out/RESULTS.md" name result text
  {
    echo "# moed on a GPU"
    echo
    echo "$(date -u +'%d %B %Y'), commit $(git rev-parse --short HEAD 2>>"$out/check.log" || echo unknown)," \
      "$([ -n "$emulation" ] && echo "the EMULATED device: no figure here says anything about a GPU" || head -n 1 "$out/gpus.txt")."
    echo
    echo "| step | result | seconds |"
    echo "|---|---|---|"
    while IFS='|' read -r name result text; do echo "| $name | $result | $text |"; done <"$out/steps.txt"
    for part in gemm attention layer step; do [ ! -f "$out/$part.md" ] || cat "$out/$part.md"; done
  } >"$results.new"
  mv "$results.new" "$results"
  cat "$results"
  say "written to $results"
}

failed=()
for s in "${steps[@]}"; do
  [[ " ${all_steps[*]} " == *" $s "* ]] || fail "unknown step '$s' (expected: ${all_steps[*]})"
  [ "$s" = table ] && { table; continue; }
  echo; say "$s"
  began=$SECONDS deadline=$((SECONDS + limit_s)) code=0
  "$s" || code=$?
  case $code in
    0) result=ok ;;
    3) result=skipped ;;
    *) result=FAILED; failed+=("$s") ;;
  esac
  record "$s" "$result" "$((SECONDS - began))"
  if [ "$result" = FAILED ] && { [ "$s" = check ] || [ "$s" = build ]; }; then fail "$s failed: the rest cannot run"; fi
done
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}; logs are in $out"
