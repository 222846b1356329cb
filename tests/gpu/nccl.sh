#!/usr/bin/env bash
# The communicator of GPU ranks over the real NCCL (libnccl.so.2 must be found): every byte of many calls on 1 to 4
# ranks, a process each, on GPUs of their own or all on one (then through sockets: right, and slow).
# Usage: tests/gpu/nccl.sh BUILD_DIR      a build with MOED_WITH_CUDA=ON and tests
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
build=${1:?usage: tests/gpu/nccl.sh BUILD_DIR}

cmake --build "$build" --target nccl_communicator_test
timeout 500 "$build/bin/nccl_communicator_test"
