#include "engine/bench/bench_options.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "config/model_config.h"
#include "engine/bench/bench_plan.h"
#include "engine/runtime/parse_dtype.h"

namespace moed {
namespace {

absl::Status CheckUsage(const BenchOptions& options) {
  if (options.model_dir.empty() == options.config_json.empty()) {
    return absl::InvalidArgumentError("give either --model DIR or --config-json FILE");
  }
  if (!options.config_json.empty() && options.load_format != "dummy") {
    return absl::InvalidArgumentError("--config-json has no weights: add --load-format dummy");
  }
  if (options.batches.empty()) return absl::InvalidArgumentError("--batch needs a batch size");
  return absl::OkStatus();
}

absl::StatusOr<ModelConfig> ReadModelConfig(const BenchOptions& options) {
  if (!options.model_dir.empty()) return LoadModelConfig(options.model_dir);
  std::ifstream file(options.config_json);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) {
    return absl::NotFoundError(absl::StrCat("cannot read --config-json ", options.config_json));
  }
  return ParseModelConfig(text.str());
}

absl::StatusOr<ExpertPlacement> MakePlacement(const BenchOptions& options,
                                              const ModelConfig& config) {
  const int32_t num_layers = static_cast<int32_t>(config.num_moe_layers());
  const int32_t num_experts = static_cast<int32_t>(config.num_experts);
  if (options.expert_placement == "linear") {
    return ExpertPlacement::Linear(num_layers, num_experts, options.num_ranks);
  }
  if (options.expert_placement == "round_robin") {
    return ExpertPlacement::RoundRobin(num_layers, num_experts, options.num_ranks);
  }
  return absl::InvalidArgumentError(absl::StrCat("--expert-placement is ", options.expert_placement,
                                                 ", expected linear or round_robin"));
}

absl::StatusOr<LocalEngineOptions> MakeEngineOptions(const BenchOptions& options,
                                                     const ModelConfig& config) {
  MOED_ASSIGN_OR_RETURN(const EngineDType dtype, ParseEngineDType(options.dtype));
  const int64_t num_positions = NumPositions(options);
  if (num_positions > config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrCat("--prompt, --generate and the steps of --mixed need ", num_positions,
                     " positions, but the model has ", config.max_positions, " positions"));
  }
  const int64_t num_blocks = MakeKvLayout(options).num_blocks();
  if (num_blocks * kBenchBlockSize > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError("--prompt, --generate and --batch need too many KV blocks");
  }
  LocalEngineOptions engine;
  engine.backend.device = options.device;
  engine.backend.activation_dtype = dtype.activation;
  engine.backend.num_threads = options.num_threads;
  engine.backend.instruction_set = options.instruction_set;
  if (options.numerics == "fast") engine.backend.numerics = kernels::Numerics::kFast;
  engine.kv_dtype = dtype.activation;
  engine.block_size = kBenchBlockSize;
  engine.num_blocks = static_cast<int32_t>(num_blocks);
  engine.max_sequences_per_step =
      MaxSequencesPerRank(options) + (options.num_mixed_tokens > 0 ? 1 : 0);
  engine.max_tokens_per_step = std::max(MaxPromptTokensPerStep(options),
                                        MaxSequencesPerRank(options) + options.num_mixed_tokens);
  engine.max_model_len = static_cast<int32_t>(num_positions);
  return engine;
}

}  // namespace

int32_t MaxSequencesPerRank(const BenchOptions& options) {
  const int32_t largest = *std::max_element(options.batches.begin(), options.batches.end());
  return (largest + options.num_ranks - 1) / options.num_ranks;
}

int64_t NumPositions(const BenchOptions& options) {
  int64_t num_positions = int64_t{options.num_prompt_tokens} + options.num_generated_tokens;
  if (options.num_mixed_tokens > 0) {
    num_positions +=
        (options.num_prompt_tokens + options.num_mixed_tokens - 1) / options.num_mixed_tokens;
  }
  return num_positions;
}

int32_t MaxPromptTokensPerStep(const BenchOptions& options) {
  return std::max(options.max_tokens_per_step, MaxSequencesPerRank(options));
}

std::vector<std::vector<int>> CpusPerRank(const BenchOptions& options) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (!options.pin || sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return {};
  if (CPU_COUNT(&allowed) < int64_t{options.num_ranks} * options.num_threads) return {};
  std::vector<std::vector<int>> cpus(options.num_ranks);
  int cpu = 0;
  for (std::vector<int>& of_rank : cpus) {
    while (static_cast<int32_t>(of_rank.size()) < options.num_threads) {
      if (CPU_ISSET(cpu, &allowed)) of_rank.push_back(cpu);
      ++cpu;
    }
  }
  return cpus;
}

absl::StatusOr<LocalEngineGroupOptions> MakeGroupOptions(const BenchOptions& options) {
  MOED_RETURN_IF_ERROR(CheckUsage(options));
  LocalEngineGroupOptions group;
  MOED_ASSIGN_OR_RETURN(group.config, ReadModelConfig(options));
  MOED_ASSIGN_OR_RETURN(group.placement, MakePlacement(options, group.config));
  MOED_ASSIGN_OR_RETURN(group.engine, MakeEngineOptions(options, group.config));
  MOED_ASSIGN_OR_RETURN(const EngineDType dtype, ParseEngineDType(options.dtype));
  group.loader.weight_format = dtype.weights;
  group.loader.model_dir = options.model_dir;
  group.loader.format = options.load_format == "dummy" ? LoadFormat::kDummy : LoadFormat::kAuto;
  group.loader.dummy_seed = options.seed;
  group.cpus_per_rank = CpusPerRank(options);
  return group;
}

}  // namespace moed
