#!/usr/bin/env bash
# Layout (clang-format), thread annotations (clang -Wthread-safety) and function sizes (clang-tidy).
# Usage: tests/lint.sh       Reads the tree that git tracks; changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "lint: $*" >&2; exit 1; }
jobs=$(nproc)
mkdir -p build/lint

mapfile -t sources < <(git ls-files '*.h' '*.cc' '*.cu' '*.cuh')
[ ${#sources[@]} -gt 0 ] || fail "git lists no sources"

version=$(clang-format --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
if [ "$version" = 14 ]; then
  echo "lint: clang-format, ${#sources[@]} files"
  printf '%s\0' "${sources[@]}" | xargs -0 -P "$jobs" -n 40 clang-format --dry-run -Werror ||
    fail "clang-format would change files; run: clang-format -i FILE"
else
  echo "lint: clang-format is version $version, layout is checked with 14 only: skipped"
fi

# The database of a clang build: nothing is compiled for it but what protoc makes.
CXX=clang++ cmake -S . -B build/lint -G Ninja -DCMAKE_BUILD_TYPE=Release >build/lint/configure.log 2>&1 ||
  { tail -n 20 build/lint/configure.log; fail "configuring for clang failed"; }

# Files that gRPC makes slow to parse are left to the compiler's own warnings.
mapfile -t annotated < <(git grep -lE 'ABSL_GUARDED_BY|ABSL_EXCLUSIVE_LOCKS_REQUIRED|absl::Mutex' -- 'config/*.cc' 'kernels/*.cc' 'engine/*.cc' 'server/*.cc' |
                         xargs -r grep -LE 'grpcpp|\.pb\.h|rpc/' || true)
echo "lint: clang -Wthread-safety, ${#annotated[@]} files"
if [ ${#annotated[@]} -gt 0 ]; then
  printf '%s\0' "${annotated[@]}" | xargs -0 -P "$jobs" -n 1 \
    clang++ -std=c++20 -fsyntax-only -I. -Wall -Wextra -Wthread-safety -Werror -Wno-missing-field-initializers ||
    fail "clang found problems"
fi

mapfile -t judged < <(git ls-files 'config/*.cc' 'kernels/*.cc' 'engine/*.cc' 'server/*.cc' 'client/*.cc' |
                      grep -vE '(^|/)rpc/|^client/|_avx|_bench|^server/(main|daemon)|json' |
                      xargs grep -LE 'grpcpp|\.pb\.h|rpc/|CLI/|nlohmann/json.hpp' || true)
echo "lint: clang-tidy, ${#judged[@]} files"
printf '%s\0' "${judged[@]}" | xargs -0 -P "$jobs" -n 4 clang-tidy --quiet -p build/lint >build/lint/tidy.log 2>/dev/null ||
  { grep -E 'error|warning' build/lint/tidy.log | sort -u | head -40; fail "clang-tidy found problems; see build/lint/tidy.log"; }
echo "lint: done"
