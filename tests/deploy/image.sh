#!/usr/bin/env bash
# Builds the image without a Docker daemon and runs it as strictly as Kubernetes would: served from, drained, killed,
# and once more as a pod of the cpu overlay.
# Usage: MOED_SCRATCH=DIR [MOED_KUBECTL=PROGRAM] tests/deploy/image.sh [--full] PREFIX     exit code 77: no container can be started here
# The base is what debootstrap's faster sibling mmdebstrap unpacks. By default it holds nothing but the libraries of the
# programs in PREFIX (target cpu-prebuilt); with --full it is a whole Debian, and moed is compiled in it (target cpu).
set -euo pipefail
full=0
[ "$1" = --full ] && { full=1; shift; }
prefix=$1
work=$(mktemp -d "$MOED_SCRATCH/image.XXXXXX")
fail() {
  echo "image: $*" >&2
  [ ! -e "$work/podman.err" ] || grep -v 'systemd connection' "$work/podman.err" | tail -n 3 >&2
  exit 1
}
say() { echo "image: $* ($SECONDS s)"; }

# Storage, run state and settings of our own: nothing of the machine's containers is seen or touched. Containers share
# no network with the machine, so that ports are theirs alone; explicit ulimits, for a machine may not raise its own.
cat >"$work/containers.conf" <<'EOF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
EOF
export CONTAINERS_CONF=$work/containers.conf
store=(--root "$work/storage" --runroot "$work/run" --storage-driver vfs)
buildah() { command buildah "${store[@]}" "$@"; }
# Without systemd as process 1, podman cannot start the timer of a health check, says so each time, and goes on.
podman() { command podman "${store[@]}" "$@" 2>>"$work/podman.err"; }
logs() { command podman "${store[@]}" logs "$1" 2>&1; }

clean_up() {
  trap - EXIT  # a process substitution in here would run it again, without end
  set +e
  podman pod rm -f -a >>"$work.log" 2>&1
  podman rm -f -a >>"$work.log" 2>&1
  # Nothing is deleted through a mount that is left.
  local mount
  findmnt -rn -o TARGET | grep -F "$work/" | sort -r | while read -r mount; do umount "$mount"; done
  if findmnt -rn -o TARGET | grep -qF "$work/"; then echo "image: left $work, where something is still mounted" >&2; return; fi
  rm -rf "$work" "$work.log"
}
trap clean_up EXIT

make_base() {
  local suite args=()
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  if [ $full -eq 1 ]; then
    args=(--variant=minbase --dpkgopt=force-unsafe-io --include=ca-certificates)
  else
    args=(--variant=extract "--include=$(sh deploy/runtime_packages.sh "$prefix"/bin/* | paste -sd,)")
  fi
  # Update and security archives as well, as the machine itself uses them.
  mmdebstrap "${args[@]}" "$suite" "$work/base.tar" >"$work/mmdebstrap.log" 2>&1 ||
    { tail -n 5 "$work/mmdebstrap.log"; fail "making a base failed"; }
  local container
  container=$(buildah from scratch)
  buildah add -q "$container" "$work/base.tar" / >>"$work.log"
  buildah commit -q "$container" localhost/moed-test-base >>"$work.log"
  buildah rm "$container" >>"$work.log"
  rm "$work/base.tar"
}

# build TARGET CONTEXT: the way the README says, with what this machine has.
build() {
  buildah bud --isolation chroot --pull-never --format docker --target "$1" -f "$PWD/deploy/Dockerfile" -t localhost/moed:cpu \
    --build-arg BASE_IMAGE=localhost/moed-test-base --build-arg VERSION=0.1.0 --build-arg REVISION=test "$2" >"$work/build.log" 2>&1 ||
    { tail -n 15 "$work/build.log"; fail "building $1 failed"; }
}

build_image() {
  if [ $full -eq 1 ]; then build cpu .; return; fi
  mkdir -p "$work/context/build/image-root/usr/local" "$work/context/deploy"
  cp -r "$prefix/." "$work/context/build/image-root/usr/local/"
  cp -r deploy/container "$work/context/deploy/"
  build cpu-prebuilt "$work/context"
}

# inspect FORMAT EXPECTED: what the image says about itself.
inspect() {
  local seen
  seen=$(podman image inspect localhost/moed:cpu --format "$1")
  [ "$seen" = "$2" ] || fail "the image's $1 is '$seen', expected '$2'"
}

check_image() {
  inspect '{{.User}}' 65532:65532
  inspect '{{join .Config.Entrypoint " "}} {{join .Config.Cmd " "}}' '/usr/local/bin/moed --config /etc/moed/moed.json'
  inspect '{{join .Config.Healthcheck.Test " "}}' 'CMD /usr/local/bin/moedctl health'
  inspect '{{.Config.StopSignal}}' SIGTERM
  inspect '{{index .Labels "org.opencontainers.image.title"}}' moed
  inspect '{{index .Labels "org.opencontainers.image.version"}}' 0.1.0
  inspect '{{index .Labels "org.opencontainers.image.revision"}}' test
  local program
  for program in moed moed-engine moedctl moed-bench moed-load; do
    podman run --rm --network none --entrypoint "/usr/local/bin/$program" localhost/moed:cpu --version >>"$work.log" ||
      fail "$program does not run in the image"
  done
}

# start NAME [flag of moed ...]: read-only, without capabilities or new privileges, with little of everything.
start() {
  local name=$1; shift
  podman run -d --name "$name" --network none --read-only --read-only-tmpfs=false --cap-drop all \
    --security-opt no-new-privileges --tmpfs /tmp:rw,noexec,nosuid,nodev,size=16m,mode=1777 --shm-size 64k \
    --memory 1g --pids-limit 256 localhost/moed:cpu --config /etc/moed/moed.json --insecure --ranks 2 --threads 1 \
    --num-blocks 2048 "$@" >>"$work.log"
}

# await CONTAINER: until it serves, by the health check that is in the image.
await() {
  for _ in $(seq 300); do
    podman healthcheck run "$1" >>"$work.log" 2>&1 && return
    [ "$(podman inspect "$1" --format '{{.State.Running}}')" = true ] || fail "$1 ended: $(logs "$1" | tail -n 3)"
    sleep 0.2
  done
  fail "$1 does not serve: $(logs "$1" | tail -n 3)"
}

process_of() { podman inspect "$1" --format '{{.State.Pid}}'; }
http() { nsenter -t "$(process_of "$1")" -n curl -s -o "$work/http" -w '%{http_code}' "127.0.0.1:9090$2"; }

# What the kernel says of the container's first process, whatever was asked for.
check_rights() {
  local pid status
  pid=$(process_of "$1")
  status=$(cat "/proc/$pid/status")
  for line in 'Uid: 65532 65532 65532 65532' 'Gid: 65532 65532 65532 65532' 'CapEff: 0000000000000000' \
              'CapBnd: 0000000000000000' 'NoNewPrivs: 1' 'Seccomp: 2'; do
    tr '\t' ' ' <<<"$status" | grep -q "^$line" || fail "$1 has other rights than '$line'"
  done
  grep -q ' / [^ ]* ro,' "/proc/$pid/mounts" || fail "$1 can write to its root file system"
}

generate() { podman exec "$1" /usr/local/bin/moedctl generate --temperature 0 --ignore-eos "${@:2}" "Once upon a time"; }

check_serving() {
  [ -n "$(generate "$1" --max-tokens 16)" ] || fail "$1 generates nothing"
  [ "$(http "$1" /readyz)" = 200 ] || fail "$1 is not ready: $(cat "$work/http")"
  [ "$(http "$1" /healthz)" = 200 ] || fail "$1 is not alive"
  [ "$(http "$1" /metrics)" = 200 ] && grep -q '^moed_requests_running' "$work/http" || fail "$1 has no metrics"
}

# SIGTERM while a long request runs: it is finished, and the exit code is 0.
check_drain() {
  generate "$1" -n 16 --max-tokens 900 --json >"$work/long.json" 2>"$work/long.err" &
  local client=$! seen=0
  for _ in $(seq 200); do
    http "$1" /metrics >>"$work.log"
    grep -Eq '^moed_requests_running\{[^}]*\} [1-9]' "$work/http" && { seen=1; break; }
    kill -0 $client 2>>"$work.log" || break
  done
  [ $seen -eq 1 ] || fail "the request that drain should wait for was over too soon"
  podman stop -t 60 "$1" >>"$work.log"
  wait $client || fail "draining lost a request: $(cat "$work/long.err")"
  grep -q '"num_generated_tokens": 14400' "$work/long.json" || fail "draining cut a request short"
  [ "$(podman inspect "$1" --format '{{.State.ExitCode}}')" = 0 ] || fail "$1 ends with another code than 0"
}

# SIGKILL of the first process takes the engines with it: their namespace ends.
check_kill() {
  local engine
  engine=$(podman exec "$1" /usr/local/bin/moedctl --json status >"$work/status.json" && pgrep -P "$(process_of "$1")" moed-engine | head -n 1)
  [ -n "$engine" ] || fail "$1 has no engine"
  podman kill -s KILL "$1" >>"$work.log"
  podman wait "$1" >>"$work.log"
  [ "$(podman inspect "$1" --format '{{.State.ExitCode}}')" = 137 ] || fail "$1 was not killed"
  for _ in $(seq 100); do [ -d "/proc/$engine" ] || return 0; sleep 0.05; done
  fail "engine $engine outlives $1"
}

# What beyond this machine could reach is refused without TLS and tokens, unless one insists.
check_default_refusal() {
  local code=0
  podman run --name open --network none --read-only localhost/moed:cpu >>"$work.log" || code=$?
  logs open >"$work/open.log"
  [ $code -eq 2 ] && grep -q insecure "$work/open.log" || fail "it listens everywhere without TLS and tokens ($code): $(tail -n 2 "$work/open.log")"
}

# The cpu overlay as a cluster would get it, through podman's own reading of Kubernetes manifests. Published ports want a
# bridge and firewall rules of this machine, so the pod has neither; and podman runs liveness probes as `curl` in the
# container, where there is none, so that we ask instead.
check_pod() {
  local pod=moed-pod-0-moed
  mkdir "$work/pod"
  cat >"$work/pod/kustomization.yaml" <<EOF
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [$(realpath --relative-to="$work/pod" deploy/kubernetes/overlays/cpu)]
patches:
  - target: {kind: Deployment, name: moed}
    patch: |
      - {op: remove, path: /spec/template/spec/containers/0/ports}
      - {op: replace, path: /spec/template/spec/containers/0/startupProbe/httpGet/port, value: 9090}
      - {op: replace, path: /spec/template/spec/containers/0/livenessProbe/httpGet/port, value: 9090}
      - {op: replace, path: /spec/template/spec/containers/0/readinessProbe/httpGet/port, value: 9090}
EOF
  "$MOED_KUBECTL" kustomize "$work/pod" >"$work/pod.yaml" || fail "the cpu overlay cannot be rendered"
  podman play kube --network none "$work/pod.yaml" >>"$work.log" || fail "podman play kube fails"
  for _ in $(seq 300); do
    podman exec "$pod" /usr/local/bin/moedctl health >>"$work.log" 2>&1 && break
    sleep 0.2
  done
  podman exec "$pod" /usr/local/bin/moedctl health >>"$work.log" || fail "the pod does not serve: $(logs "$pod" | tail -n 3)"
  check_rights "$pod"
  check_serving "$pod"
  podman play kube --down "$work/pod.yaml" >>"$work.log" || fail "podman play kube --down fails"
}

make_base
say "made a base"
build_image
say "built an image of $(podman image inspect localhost/moed:cpu --format '{{.Size}}' | numfmt --to=iec)"
podman run --rm --network none --entrypoint /usr/local/bin/moed localhost/moed:cpu --version >>"$work.log" ||
  { tail -n 3 "$work/podman.err"; exit 77; }
check_image
check_default_refusal
say "the image says what it is, and refuses to be open by default"
start served
await served
check_rights served
check_serving served
check_drain served
say "served and drained"
start killed
await killed
check_kill killed
say "killed, engines and all"
if [ -n "${MOED_KUBECTL:-}" ]; then
  check_pod
  say "played the cpu overlay as a pod"
fi
