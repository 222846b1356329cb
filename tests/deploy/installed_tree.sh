#!/usr/bin/env bash
# Runs an installed moed on the installed demo model, from a folder where there is no source tree.
# Usage: MOED_SCRATCH=DIR tests/deploy/installed_tree.sh PREFIX
set -euo pipefail
prefix=$1
fail() { echo "installed_tree: $*" >&2; exit 1; }

for path in bin/moed bin/moed-engine bin/moedctl bin/moed-bench bin/moed-load share/moed/demo/model.safetensors \
            share/moed/examples/production.json lib/systemd/system/moed.service; do
  [ -e "$prefix/$path" ] || fail "$path is not installed"
done
# --help says what a manual page would: usage, every flag, exit codes.
for program in moed moed-engine moedctl moed-bench moed-load; do
  help=$("$prefix/bin/$program" --help) || fail "$program --help fails"
  for part in Usage: 'Exit codes' Examples; do
    grep -q "$part" <<<"$help" || fail "$program --help has no '$part'"
  done
  "$prefix/bin/$program" --version | grep -Eq '[0-9]+\.[0-9]+\.[0-9]+' || fail "$program --version says no version"
done

run=$(mktemp -d "$MOED_SCRATCH/run.XXXXXX")
cd "$run"
"$prefix/bin/moed" --check --json >plan.json || fail "moed --check fails"
grep -q "\"$prefix/share/moed/demo\"" plan.json || fail "it is not the installed demo model that --check plans with: $(cat plan.json)"
"$prefix/bin/moed" --listen "unix:$run/s" --metrics-listen '' --ready-file "$run/ready" --num-blocks 64 --threads 1 >log 2>&1 &
daemon=$!
trap 'kill -KILL $daemon 2>/dev/null || true' EXIT
for _ in $(seq 600); do
  [ -e ready ] && break
  kill -0 $daemon 2>/dev/null || fail "moed ended: $(tail -n 2 log)"
  sleep 0.1
done
"$prefix/bin/moedctl" --server "unix:$run/s" health | grep -q SERVING || fail "it does not serve"
text=$("$prefix/bin/moedctl" --server "unix:$run/s" generate --temperature 0 --max-tokens 12 --ignore-eos "Once upon a time")
[ -n "$text" ] || fail "it generates nothing"
kill -TERM $daemon
wait $daemon || fail "it does not end with 0: $(tail -n 2 log)"
trap - EXIT
cd / && rm -rf "$run"
