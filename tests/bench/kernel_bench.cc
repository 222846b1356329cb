// Every kernel at the shapes that matter, beside what the machine does at best.
// kernel_bench [--benchmark_filter=REGEX ...] [THREADS]; exit codes: 0 ok, 1 failure, 2 wrong
// usage.

#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

#include "config/base/status_macros.h"
#include "engine/bench/bench_options.h"
#include "kernels/create_backend.h"
#include "tests/bench/bench_support.h"

namespace moed::bench {
namespace {

/// Measures the machine, then makes the backend: it pins the calling thread.
absl::StatusOr<BenchContext> MakeContext(int num_threads) {
  const auto cpus_per_rank = CpusPerRank({.num_threads = num_threads});
  const std::vector<int> cpus = cpus_per_rank.empty() ? std::vector<int>() : cpus_per_rank[0];
  BenchContext context;
  MOED_ASSIGN_OR_RETURN(context.ceilings,
                        MeasureCeilings({.num_threads = num_threads, .cpus = cpus}));
  MOED_ASSIGN_OR_RETURN(context.backend,
                        kernels::CreateBackend({.num_threads = num_threads, .cpus = cpus}));
  return context;
}

void RunAll(const BenchContext& context) {
  const MachineCeilings& most = context.ceilings;
  std::printf("%s, %d threads: read %.1f GB/s (%s), f32 %.0f, bf16 %.0f, int8 %.0f Gop/s\n",
              context.backend->instruction_set().c_str(), most.num_threads,
              most.read_bytes_per_s / 1e9, most.read_method.c_str(), most.f32_ops_per_s / 1e9,
              most.bf16_ops_per_s / 1e9, most.int8_ops_per_s / 1e9);
  RegisterExpertBenchmarks(context);
  RegisterLinearBenchmarks(context);
  RegisterAttentionBenchmarks(context);
  RegisterRowBenchmarks(context);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::ClearRegisteredBenchmarks();  // they hold weights, which must not outlive the backend
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const int num_threads =
      argc > 1 ? std::atoi(argv[1]) : static_cast<int>(std::thread::hardware_concurrency());
  if (argc > 2 || num_threads < 1 || num_threads > 1024) {
    std::fprintf(stderr, "usage: kernel_bench [--benchmark_...] [THREADS]\n");
    return 2;
  }
  const absl::StatusOr<BenchContext> context = MakeContext(num_threads);
  if (!context.ok()) {
    std::fprintf(stderr, "kernel_bench: %s\n", context.status().ToString().c_str());
    return 1;
  }
  RunAll(*context);
  return 0;
}

}  // namespace
}  // namespace moed::bench

int main(int argc, char** argv) { return moed::bench::Main(argc, argv); }
