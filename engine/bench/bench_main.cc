/// moed-bench: prompt processing and batched generation of one engine group, without a server.
/// Exit codes: 0 ok, 1 failure, 2 wrong usage.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "config/base/status_macros.h"
#include "engine/bench/bench_options.h"
#include "engine/bench/bench_report.h"
#include "engine/bench/bench_run.h"
#include "engine/bench/machine_ceilings.h"

namespace moed {
namespace {

constexpr int kFailure = 1;
constexpr int kWrongUsage = 2;
constexpr char kFooter[] =
    R"(Engines are threads of this process; no server and no gRPC is involved.
Results go to standard output, with what the machine itself can do beside them; --json gives every
sample.
Exit codes: 0 ok, 1 failure, 2 wrong usage.

Examples:
  moed-bench --model config/demo --ranks 2 --batch 1,8
  moed-bench --config-json config.json --load-format dummy --dtype int4 --prompt 512 --json)";

void AddModelFlags(CLI::App& app, BenchOptions& options) {
  app.add_option("--model", options.model_dir, "Model directory (Hugging Face layout)");
  app.add_option("--config-json", options.config_json, "config.json alone, with dummy weights");
  app.add_option("--load-format", options.load_format, "auto: read weights; dummy: random ones")
      ->check(CLI::IsMember({"auto", "dummy"}));
  app.add_option("--dtype", options.dtype, "bf16, f32, int8 or int4")->capture_default_str();
  app.add_option("--numerics", options.numerics, "fast: cuBLAS where it wins, on GPUs")
      ->check(CLI::IsMember({"invariant", "fast"}))
      ->capture_default_str();
  app.add_option("--device", options.device, "cpu or cuda:N")->capture_default_str();
  app.add_option("--instruction-set", options.instruction_set, "Force the kernels' choice");
}

void AddRunFlags(CLI::App& app, BenchOptions& options) {
  app.add_option("--ranks", options.num_ranks, "Engines: threads of this process")
      ->check(CLI::Range(1, 8))
      ->capture_default_str();
  app.add_option("--threads", options.num_threads, "Threads per rank")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--expert-placement", options.expert_placement, "linear or round_robin")
      ->capture_default_str();
  app.add_option("--prompt", options.num_prompt_tokens, "Prompt tokens per sequence")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--generate", options.num_generated_tokens, "Generated tokens per sequence")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--batch", options.batches, "Numbers of sequences, separated by commas")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--mixed", options.num_mixed_tokens,
                 "Also decode beside a prompt of which each step computes so many tokens")
      ->check(CLI::Range(0, 1 << 16))
      ->capture_default_str();
  app.add_flag("--shared-prompt", options.shared_prompt,
               "One prompt for all sequences, computed once on each rank");
  app.add_option("--max-tokens-per-step", options.max_tokens_per_step, "Of each rank")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app.add_option("--repetitions", options.num_repetitions, "Measured runs of each batch")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--seed", options.seed, "Of dummy weights and tokens")->capture_default_str();
  app.add_flag("!--no-pin", options.pin, "Let threads move between CPUs");
  app.add_flag("!--no-ceilings", options.ceilings, "Do not measure the machine's own limits");
  app.add_flag("--json", options.json, "Print one JSON object instead of tables");
}

/// With the threads of all ranks, where they will be.
CeilingOptions CeilingOptionsFor(const LocalEngineGroupOptions& group) {
  CeilingOptions ceilings{.num_threads =
                              group.placement.num_ranks * group.engine.backend.num_threads};
  for (const std::vector<int>& of_rank : group.cpus_per_rank) {
    ceilings.cpus.insert(ceilings.cpus.end(), of_rank.begin(), of_rank.end());
  }
  return ceilings;
}

absl::StatusOr<BenchReport> RunBench(const BenchOptions& options,
                                     const LocalEngineGroupOptions& group_options) {
  BenchReport report{.options = options,
                     .config = group_options.config,
                     .pinned = !group_options.cpus_per_rank.empty()};
  MOED_ASSIGN_OR_RETURN(report.dtype, ParseEngineDType(options.dtype));
  MOED_ASSIGN_OR_RETURN(report.stored_dtype,
                        StoredMatrixDType(group_options.config, group_options.loader));
  std::unique_ptr<ReadProbe> probe;
  if (options.ceilings) {
    const CeilingOptions ceilings = CeilingOptionsFor(group_options);
    MOED_ASSIGN_OR_RETURN(report.ceilings, MeasureCeilings(ceilings));
    MOED_ASSIGN_OR_RETURN(probe, ReadProbe::Create(ceilings));
  }
  const auto begin = std::chrono::steady_clock::now();
  MOED_ASSIGN_OR_RETURN(std::unique_ptr<LocalEngineGroup> group,
                        LocalEngineGroup::Create(group_options));
  report.load_seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  for (int32_t rank = 0; rank < group->num_ranks(); ++rank) {
    report.engines.push_back(group->info(rank));
  }
  for (int32_t batch : options.batches) {
    MOED_ASSIGN_OR_RETURN(std::vector<TestSamples> tests,
                          RunBatch(*group, options, batch, group_options.config, probe.get()));
    std::move(tests.begin(), tests.end(), std::back_inserter(report.tests));
  }
  return report;
}

int ReportError(const absl::Status& status) {
  std::fprintf(stderr, "moed-bench: %s\n", status.ToString().c_str());
  return kFailure;
}

int Main(int argc, char** argv) {
  BenchOptions options;
  CLI::App app("Measures prompt processing and batched generation of moed's engine.", "moed-bench");
  AddModelFlags(app, options);
  AddRunFlags(app, options);
  app.set_version_flag("--version", MOED_VERSION);
  app.footer(kFooter);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kWrongUsage;
  }

  absl::StatusOr<LocalEngineGroupOptions> group_options = MakeGroupOptions(options);
  if (!group_options.ok()) {
    ReportError(group_options.status());
    return absl::IsInvalidArgument(group_options.status()) ||
                   absl::IsUnimplemented(group_options.status())
               ? kWrongUsage
               : kFailure;
  }
  absl::StatusOr<BenchReport> report = RunBench(options, *group_options);
  if (!report.ok()) return ReportError(report.status());
  const std::string text = options.json ? FormatJson(*report) : FormatTables(*report);
  std::fputs(text.c_str(), stdout);
  return 0;
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) { return moed::Main(argc, argv); }
