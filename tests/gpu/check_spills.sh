#!/usr/bin/env bash
# Compiles the CUDA kernels for sm_80, sm_90 and sm_100 and prints what ptxas says of each: registers, shared
# memory, spills. Fails on a kernel that spills or keeps an array in local memory. Needs nvcc, but no GPU.
# Usage: tests/gpu/check_spills.sh [JOBS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
jobs=${1:-$(nproc)}
fail() { echo "check_spills: $*" >&2; exit 1; }

mkdir -p build/cuda
cmake --preset cuda -DMOED_BUILD_TESTS=OFF >build/cuda/configure.log 2>&1 ||
  { tail -n 20 build/cuda/configure.log; fail "configuring failed"; }
# Everything anew: ptxas speaks only of what is compiled.
rm -rf build/cuda/kernels/cuda/CMakeFiles/moed_kernels_cuda.dir
cmake --build build/cuda --target moed_kernels_cuda -j "$jobs" >build/cuda/ptxas.log 2>&1 ||
  { grep -E "error|FAILED" build/cuda/ptxas.log | head -40; fail "compiling failed"; }

awk '
  /Compiling entry function/ { split($0, q, "\047"); name = q[2]; arch = q[4] }
  /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
  /Used [0-9]+ registers/ {
    for (i = 1; i <= NF; ++i) if ($i == "Used") registers = $(i + 1)
    bad = stack + stores + loads > 0
    printf "%-7s %3d registers %4d stack %4d spilled %s%s\n", arch, registers, stack, stores + loads, name, bad ? "  <-- SPILLS" : ""
    ++kernels; spills += bad
  }
  END {
    printf "check_spills: %d kernels, %d with spills or local arrays\n", kernels, spills
    exit kernels == 0 || spills > 0
  }' build/cuda/ptxas.log | { command -v c++filt >/dev/null && c++filt || cat; } || fail "see above"
