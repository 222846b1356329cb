#!/usr/bin/env bash
# Holds the installed unit against systemd's own checks.
# Usage: tests/deploy/systemd_unit.sh PREFIX
set -euo pipefail
unit=$1/lib/systemd/system/moed.service
max_exposure=15 # of 100, as `systemd-analyze security` counts
fail() { echo "systemd_unit: $*" >&2; exit 1; }

said=$(systemd-analyze verify "$unit" 2>&1) || fail "verify: $said"
# verify also speaks of units of the machine that moed.service needs.
! grep -F moed <<<"$said" || fail "verify finds something"
systemd-analyze security --offline=true --threshold=$max_exposure "$unit" >"$unit.security" ||
  fail "it exposes too much: $(tail -n 1 "$unit.security")"
tail -n 1 "$unit.security"
# The drop-in for GPUs, as it would lie beside the unit.
mkdir -p "$unit.d"
cp "$1/share/moed/systemd/moed.service.d/gpu.conf" "$unit.d/"
said=$(systemd-analyze verify "$unit" 2>&1) || fail "verify with gpu.conf: $said"
! grep -F -e moed -e gpu.conf <<<"$said" || fail "verify finds something with gpu.conf"
rm -r "$unit.d"
grep -q "^ExecStart=$1/bin/moed " "$unit" || fail "it starts another moed than the one installed beside it"
