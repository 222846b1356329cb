#!/usr/bin/env bash
# All tests: set-up, lint, release build and tests, the build without gRPC, the CUDA kernels through nvcc, and
# parts under sanitizers.
# Usage: tests/run.sh [STEP ...]     steps: lint release deploy norpc cuda asan asan-more tsan (default: all but deploy and asan-more)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "tests: $*" >&2; exit 1; }
began=$SECONDS
step() { echo; echo "== $* ($((SECONDS - began)) s since start)"; }

# build PRESET [cmake argument ...] -- [target ...]
build() {
  local preset=$1; shift
  local args=() targets=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do args+=("$1"); shift; done
  [ $# -gt 0 ] && shift
  [ $# -gt 0 ] && targets=(--target "$@")
  mkdir -p "build/$preset"
  cmake --preset "$preset" "${args[@]}" >"build/$preset/configure.log" 2>&1 ||
    { tail -n 20 "build/$preset/configure.log"; fail "configuring $preset failed"; }
  cmake --build --preset "$preset" "${targets[@]}" || fail "building $preset failed"
}

# run_ctest PRESET [ctest argument ...]
run_ctest() {
  local preset=$1; shift
  ctest --test-dir "build/$preset" --output-on-failure --no-tests=error "$@" || fail "tests of $preset failed"
}

lint() {
  step "lint"
  bash tests/lint.sh || fail "lint failed"
}

# What the tests of rules, dashboards and status page need beside the build. Prometheus is unpacked, not installed:
# its package would start a service. Without it or a browser these tests are skipped.
observability_tools() {
  if ! command -v promtool >/dev/null && [ ! -x build/tools/usr/bin/promtool ]; then
    mkdir -p build/tools
    (cd build/tools && apt-get download -q prometheus && dpkg -x prometheus_*.deb . && rm prometheus_*.deb) ||
      echo "!!! tests: there is no Prometheus here: alert rules and dashboards are NOT tested"
  fi
  command -v chromium >/dev/null || echo "!!! tests: there is no Chromium here: the status page is NOT tested in a browser"
}

# The front of deploy/front is tested with a real nginx, unpacked because its package would start a service.
front_tools() {
  if [ ! -x /usr/sbin/nginx ] && [ ! -x build/tools/usr/sbin/nginx ]; then
    mkdir -p build/tools
    (cd build/tools && apt-get download -q nginx && dpkg -x nginx_*.deb . && rm nginx_*.deb) ||
      echo "!!! tests: there is no nginx here: the front of deploy/front is NOT tested"
  fi
}

release() {
  step "release: build"
  build release -DMOED_BUILD_TESTS=ON
  step "release: tests"
  observability_tools
  front_tools
  run_ctest release -j 2
}

# What is installed is all of the release build.
deploy() {
  step "deploy: install, unit, manifests, rolling update, image"
  build release -DMOED_BUILD_TESTS=ON
  MOED_BUILD_DIR=build/release bash tests/deploy/run.sh || fail "tests of the deployment failed"
}

norpc() {
  step "without gRPC: build and test the engine"
  build norpc
  run_ctest norpc -j 2 -R '^(layering|moed_bench|local_engine|reference|moe_layer)_test$'
}

cuda() {
  step "cuda: compile the kernels for three architectures"
  if ! command -v nvcc >/dev/null && [ ! -x /usr/local/cuda/bin/nvcc ]; then
    echo "tests: there is no nvcc here, the kernels are tested on the emulation only: skipped"
    return
  fi
  bash tests/gpu/check_spills.sh || fail "the CUDA kernels do not compile, or spill"
}

# The sanitizer builds leave out the tests that are mostly gRPC's own code, which is not instrumented: services,
# generate, engine_wire, process_engine_group, client. Those run in the release build, e2e_test with real processes.
asan_targets=(json_reader_test model_config_test attention_test gemm_test int_gemm_test moe_ops_test packed_gemm_test
              panel_packing_test sampling_test thread_pool_test cuda_emulation_test cuda_backend_test
              safetensors_file_test weight_loader_test fp8_weights_test shm_communicator_test nccl_communicator_test
              dispatch_plan_test moe_layer_test moe_exchange_test paged_kv_cache_test decoder_model_test
              batch_inputs_test validate_step_plan_test local_engine_test unicode_test regex_test tokenizer_test
              stream_decoder_test kv_block_manager_test)
# Under `tests/run.sh asan-more`, not by default: half an hour is not enough for everything.
asan_more_targets=(logging_test rope_test daemon_config_test create_backend_test emulated_cuda_test
                   expert_placement_test dummy_tensors_test format_rule_test sampler_test reference_test
                   scheduler_test scheduler_random_load_test stop_string_matcher_test sequence_output_test
                   load_placement_test balancedness_test step_loop_test token_table_test token_authenticator_test
                   tenant_quotas_test pending_events_test host_memory_test memory_plan_test dtype_quality_test
                   client_units_test trace_context_test)
tsan_targets=(thread_pool_test int_gemm_test shm_communicator_test moe_exchange_test local_engine_test logging_test)

sanitized() {
  local preset=$1; shift
  step "$preset: build ${#} test programs"
  build "$preset" -DMOED_BUILD_TESTS=ON -- "$@"
  step "$preset: tests"
  run_ctest "$preset" -j 2 -R "^($(IFS='|'; echo "$*"))\$"
}
asan() { ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 sanitized asan "${asan_targets[@]}"; }
asan-more() { ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 sanitized asan "${asan_more_targets[@]}"; }
tsan() { TSAN_OPTIONS=second_deadlock_stack=1 sanitized tsan "${tsan_targets[@]}"; }

bash deploy/setup.sh --with-tests
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(lint release norpc cuda asan tsan)
for s in "${steps[@]}"; do
  case "$s" in
    lint|release|deploy|norpc|cuda|asan|asan-more|tsan) "$s" ;;
    *) fail "unknown step '$s' (expected lint, release, deploy, norpc, cuda, asan, asan-more, tsan)" ;;
  esac
done
step "all passed: ${steps[*]}"
