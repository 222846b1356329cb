/// gpu-bench: kernels, a MoE layer and whole steps on one GPU beside what it does at best.
/// Exit codes: 0 ok, 1 failure, 2 wrong usage.

#include <cstdio>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "config/base/status_macros.h"
#include "kernels/create_backend.h"
#include "tests/gpu/bench_table.h"

namespace moed::gpu_bench {
namespace {

struct Options {
  std::string part;
  std::string out;  // file that rows are appended to
  std::string config_json;
  Scale scale;
};

absl::Status Run(const Options& options) {
  const int64_t copied_bytes = options.scale.Of(int64_t{2} << 30, 1 << 20);
  MOED_ASSIGN_OR_RETURN(const DeviceCeilings ceilings, MeasureDevice(copied_bytes));
  MOED_ASSIGN_OR_RETURN(const Table table, Table::Open(options.out, ceilings));
  if (options.part == "step") {
    return BenchSteps({.table = table,
                       .ceilings = ceilings,
                       .config_json = options.config_json,
                       .scale = options.scale});
  }
  MOED_ASSIGN_OR_RETURN(const auto backend, kernels::CreateBackend({.device = "cuda:0"}));
  BenchParams params = {.backend = *backend, .table = table, .scale = options.scale};
  if (options.part == "gemm") return BenchGemm(params);
  if (options.part == "attention") return BenchAttention(params);
  return BenchLayer(params);
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Measures moed's kernels and steps on the first GPU.", "gpu-bench");
  app.add_option("part", options.part, "gemm, attention, layer or step")
      ->required()
      ->check(CLI::IsMember({"gemm", "attention", "layer", "step"}));
  app.add_option("--out", options.out, "File to append the rows to");
  app.add_option("--config-json", options.config_json, "config.json of the model of `step`");
  app.add_flag("--tiny", options.scale.tiny, "Sizes for the emulated device; times mean nothing");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = Run(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "gpu-bench: %s\n", status.ToString().c_str());
  return 1;
}

}  // namespace
}  // namespace moed::gpu_bench

int main(int argc, char** argv) { return moed::gpu_bench::Main(argc, argv); }
