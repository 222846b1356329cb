#!/bin/sh
# Prints the Debian or Ubuntu packages that hold the shared libraries of some programs, one a line: what an image
# needs to run them, whatever the distribution calls its libraries.
# Usage: deploy/runtime_packages.sh PROGRAM ...
set -eu
[ $# -gt 0 ] || { echo "runtime_packages: expected programs" >&2; exit 2; }
for program in "$@"; do
  libraries=$(ldd "$program") || { echo "runtime_packages: $program is no program of this system" >&2; exit 1; }
  echo "$libraries" | grep -q 'not found' && { echo "runtime_packages: $program: $libraries" >&2; exit 1; }
  for library in $(echo "$libraries" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p'); do
    # /lib may be a link to /usr/lib; the package's own list has one of the two.
    path=$(readlink -f "$library")
    dpkg-query -S "$path" 2>/dev/null || dpkg-query -S "${path#/usr}"
  done
done | sed 's/:.*//' | sort -u
