#!/usr/bin/env bash
# Installs the Debian 12 / Ubuntu 24.04 packages that moed needs and the machine lacks.
# Usage: deploy/setup.sh [--with-tests]      Safe to run again; needs root or sudo only if something is missing.
set -euo pipefail

fail() { echo "setup: $*" >&2; exit 1; }

packages=(g++ cmake ninja-build pkg-config ca-certificates
          libgrpc++-dev libssl-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libabsl-dev libspdlog-dev
          nlohmann-json3-dev libcli11-dev libpcre2-dev libutf8proc-dev prometheus-cpp-dev libcivetweb-dev
          libucx-dev)
case "${1:-}" in
  "") ;;
  --with-tests)
    packages+=(ccache clang clang-format clang-tidy libclang-rt-dev libgtest-dev libgmock-dev libbenchmark-dev
               iproute2 python3 python3-grpcio python3-protobuf procps) ;;
  *) fail "unknown argument '$1' (expected nothing or --with-tests)" ;;
esac

command -v dpkg-query >/dev/null || fail "this script knows Debian and Ubuntu only (dpkg is missing)"
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "setup: all packages are installed"
  exit 0
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || fail "need root or sudo to install: ${missing[*]}"
  as_root=(sudo)
fi
log=$(mktemp "${TMPDIR:-/tmp}/moed-setup.XXXXXX")
echo "setup: installing ${#missing[@]} packages: ${missing[*]}"
apt_get() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 "$@" >>"$log" 2>&1 </dev/null
}
# Package lists may be old or absent; the install itself decides.
apt_get update -q || echo "setup: apt-get update failed; going on with the lists at hand"
apt_get install -q -y --no-install-recommends "${missing[@]}" || fail "apt-get install failed; see $log"
rm -f "$log"
echo "setup: done"
