#include "engine/bench/bench_report.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "engine/bench/bench_summary.h"

namespace moed {
namespace {

std::string FormatHeader(const BenchReport& report) {
  const EngineInfo& engine = report.engines.front();
  const BenchOptions& options = report.options;
  int64_t weight_bytes = 0;
  for (const EngineInfo& info : report.engines) weight_bytes += info.weight_bytes;
  return absl::StrFormat(
      "%s, %d layers, hidden %d, %d experts, top-%d, %s, %s (%s), %d ranks x %d threads%s%s\n"
      "weights %.1f MiB over all ranks, loaded in %.2f s; prompt %d%s and generation %d tokens per "
      "sequence, %d repetitions\n",
      report.config.architecture, report.config.num_layers, report.config.hidden_size,
      report.config.num_experts, report.config.top_k, options.dtype, engine.device,
      engine.instruction_set, engine.num_ranks, engine.num_threads,
      engine.num_ranks > 1 ? " of one process" : "", report.pinned ? ", pinned" : ", not pinned",
      static_cast<double>(weight_bytes) / (1 << 20), report.load_seconds, options.num_prompt_tokens,
      options.shared_prompt ? " (shared)" : "", options.num_generated_tokens,
      options.num_repetitions);
}

/// Both rates of a step that decodes beside a prompt.
std::string FormatMixedRates(const TestSamples& test) {
  const StepLoad& load = test.samples.front().load;
  const double speed = SpreadOver(test.samples, TokensPerSecond).median;
  const double per_token = speed / static_cast<double>(load.num_tokens());
  return absl::StrFormat("%6d mixed: prompt %.1f and decoding %.1f tokens/s at the same time\n",
                         test.batch, per_token * static_cast<double>(load.num_prompt_tokens),
                         per_token * static_cast<double>(load.num_decoded_tokens));
}

std::string FormatSpeedTable(const BenchReport& report) {
  std::string out =
      absl::StrFormat("%6s %-11s %10s %10s %10s %10s %16s %9s\n", "batch", "test", "tokens/s",
                      "min", "max", "ms/step", "experts/layer", "balanced");
  std::string mixed;
  for (const TestSamples& test : report.tests) {
    const Spread speed = SpreadOver(test.samples, TokensPerSecond);
    const TestSample& first = test.samples.front();
    out += absl::StrFormat("%6d %-11s %10.1f %10.1f %10.1f %10.3f %7.1f of %5.1f %9.3f\n",
                           test.batch, Name(test.test), speed.median, speed.min, speed.max,
                           StageMs(test.samples).back().second, DistinctExperts(test.samples),
                           UniformDistinctExperts(report.config, first), first.balancedness);
    if (test.test == BenchTest::kMixed) mixed += FormatMixedRates(test);
  }
  return out + mixed +
         "experts/layer: distinct experts per layer and step, of what uniform routing gives\n";
}

std::string FormatStageTable(const BenchReport& report) {
  const auto width = [](const std::string& stage) {
    return std::max<int>(8, static_cast<int>(stage.size()));
  };
  std::string out = "\nmilliseconds per step (mean over ranks, median over repetitions)\n";
  out += absl::StrFormat("%6s %-11s", "batch", "test");
  for (const std::string& stage : StageNames()) {
    out += absl::StrFormat(" %*s", width(stage), stage);
  }
  for (const TestSamples& test : report.tests) {
    out += absl::StrFormat("\n%6d %-11s", test.batch, Name(test.test));
    for (const auto& [stage, ms] : StageMs(test.samples)) {
      out += absl::StrFormat(" %*.3f", width(stage), ms);
    }
  }
  return out + "\n";
}

std::string FormatCeilings(const MachineCeilings& ceilings) {
  if (ceilings.num_threads == 0) return "";
  return absl::StrFormat(
      "machine: read %.1f GB/s (%s), copy %.1f GB/s, on registers f32 %.0f, bf16 %.0f, int8 "
      "%.0f Gop/s\n",
      ceilings.read_bytes_per_s / 1e9, ceilings.read_method, ceilings.copy_bytes_per_s / 1e9,
      ceilings.f32_ops_per_s / 1e9, ceilings.bf16_ops_per_s / 1e9, ceilings.int8_ops_per_s / 1e9);
}

std::string FormatRate(const TestSamples& test, const StageRate& rate) {
  return absl::StrFormat("%6d %-11s %-11s %10.3f %9.2f %8.2f %5.0f%% %9.3f %9.1f %5.0f%% %5.0f%%\n",
                         test.batch, Name(test.test), rate.work.stage, rate.ms,
                         rate.work.bytes / 1e6, rate.bytes_per_s() / 1e9, 100 * rate.read_share,
                         rate.work.operations / 1e9, rate.operations_per_s() / 1e9,
                         100 * rate.arithmetic_share, 100 * rate.bound_share);
}

std::string FormatRateTable(const BenchReport& report) {
  if (report.ceilings.num_threads == 0) return "";
  std::string out = "\nwhat a step has to read and compute, beside the machine's limits\n";
  out += absl::StrFormat("%6s %-11s %-11s %10s %9s %8s %6s %9s %9s %6s %6s\n", "batch", "test",
                         "stage", "ms/step", "MB read", "GB/s", "of max", "Gop", "Gop/s", "of max",
                         "bound");
  for (const TestSamples& test : report.tests) {
    const double read =
        SpreadOver(test.samples, [](const TestSample& s) { return s.read_bytes_per_s; }).median;
    out += absl::StrFormat("%6d %-11s (the machine at that time: read %.1f GB/s)\n", test.batch,
                           Name(test.test), read / 1e9);
    for (const StageRate& rate : RatesOf(report.work_model(), test.samples, report.ceilings)) {
      out += FormatRate(test, rate);
    }
  }
  return out + "bound: of the measured time, what the slower of the two takes at the limit\n";
}

}  // namespace

std::string FormatTables(const BenchReport& report) {
  return FormatHeader(report) + FormatCeilings(report.ceilings) + "\n" + FormatSpeedTable(report) +
         FormatStageTable(report) + FormatRateTable(report);
}

}  // namespace moed
