#!/usr/bin/env bash
# From a fresh clone to generated text: installs what is missing, builds a release, starts moed on the bundled demo
# model with two expert-parallel CPU ranks, and streams a story.
# Usage: deploy/quickstart.sh [--keep] [PROMPT]      --keep leaves the daemon running.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "quickstart: $*" >&2; exit 1; }

keep=0
prompt="Once upon a time there was a little girl who"
while [ $# -gt 0 ]; do
  case "$1" in
    --keep) keep=1 ;;
    -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;;
    -*) fail "unknown option '$1' (expected --keep)" ;;
    *) prompt=$1 ;;
  esac
  shift
done

bash deploy/setup.sh
echo "quickstart: building (the first time takes some minutes)"
mkdir -p build/release
cmake --preset release >build/release/configure.log 2>&1 || fail "configuring failed; see build/release/configure.log"
cmake --build --preset release --target moed moed-engine moedctl || fail "building failed; the compiler's message is above"

bin=$PWD/build/release/bin
run=$(mktemp -d "${TMPDIR:-/tmp}/moed-quickstart.XXXXXX")
listen=127.0.0.1:50051 metrics=127.0.0.1:9090
(exec 3<>/dev/tcp/127.0.0.1/50051) 2>/dev/null && listen=127.0.0.1:0
(exec 3<>/dev/tcp/127.0.0.1/9090) 2>/dev/null && metrics=127.0.0.1:0

setsid "$bin/moed" --ranks 2 --listen "$listen" --metrics-listen "$metrics" --ready-file "$run/ready.json" \
  >"$run/moed.log" 2>&1 </dev/null &
daemon=$!
trap 'kill -TERM $daemon 2>/dev/null || true' EXIT
echo "quickstart: starting moed with 2 ranks (pid $daemon, log $run/moed.log)"
for _ in $(seq 600); do
  [ -s "$run/ready.json" ] && break
  kill -0 "$daemon" 2>/dev/null || fail "moed ended while starting: $(tail -n 1 "$run/moed.log")"
  sleep 0.1
done
[ -s "$run/ready.json" ] || fail "moed was not ready after 60 s; see $run/moed.log"
listen=$(sed -n 's/.*"listen": *"\([^"]*\)".*/\1/p' "$run/ready.json")
metrics=$(sed -n 's/.*"metrics_listen": *"\([^"]*\)".*/\1/p' "$run/ready.json")

echo "quickstart: moedctl --server $listen generate --max-tokens 120 --seed 7 \"$prompt\""
echo
"$bin/moedctl" --server "$listen" generate --echo --max-tokens 120 --seed 7 "$prompt" || fail "generation failed; see $run/moed.log"
echo
"$bin/moedctl" --server "$listen" status || fail "status failed; see $run/moed.log"
echo
if [ $keep -eq 1 ]; then
  trap - EXIT
  echo "quickstart: moed listens on $listen (gRPC) and $metrics (metrics); stop it with: kill $daemon"
else
  trap - EXIT
  kill -TERM "$daemon"
  wait "$daemon" || fail "moed did not end cleanly; see $run/moed.log"
  echo "quickstart: moed listened on $listen (gRPC) and $metrics (metrics), and has ended; --keep leaves it running"
  rm -rf "$run"
fi
