#!/bin/sh
# Prints the Debian or Ubuntu packages that hold the shared libraries of some programs, one a line: what an image
# needs to run them, whatever the distribution calls its libraries.
# Usage: deploy/runtime_packages.sh PROGRAM ...
set -eu
[ $# -gt 0 ] || { echo "runtime_packages: expected programs" >&2; exit 2; }
linked=$(ldd "$@")
if echo "$linked" | grep 'not found' >&2; then echo "runtime_packages: libraries are missing" >&2; exit 1; fi
libraries=$(echo "$linked" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' | sort -u)
# /lib may be a link to /usr/lib, and a package's list then has either name: whichever it is, each file must be found.
found=$(for library in $libraries; do
  real=$(readlink -f "$library")
  echo "$real"; echo "${real#/usr}"
done | xargs dpkg-query -S 2>/dev/null || true)
for library in $libraries; do
  echo "$found" | grep -q "/$(basename "$(readlink -f "$library")")\$" ||
    { echo "runtime_packages: no package has $library" >&2; exit 1; }
done
echo "$found" | sed 's/:.*//' | sort -u
