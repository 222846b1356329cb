#!/usr/bin/env bash
# Runs moed-bench and the benchmarks of other engines in turn on one shape and prints the ratios.
# `compare_peers.sh --help` lists the flags; README.md beside this file says how to build the peers.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/compare_peers.py" "$@"
