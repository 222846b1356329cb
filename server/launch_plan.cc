#include "server/launch_plan.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "config/base/status_macros.h"
#include "config/model_config.h"
#include "engine/comm/shm_communicator.h"
#include "engine/runtime/local_engine.h"
#include "engine/runtime/memory_estimate.h"
#include "engine/runtime/parse_dtype.h"
#include "server/device_memory.h"
#include "server/host_memory.h"
#include "server/placement/load_placement.h"
#include "server/supervisor/cpu_assignment.h"

namespace moed {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMinReservedBytes = int64_t{256} << 20;
constexpr int kReservedShare = 20;  // one part in so many stays free
constexpr double kGib = 1 << 30;

// The demo model, beside the program in an installed tree or in the source tree above
// build/PRESET/bin.
absl::StatusOr<std::string> BundledModelDir() {
  std::error_code error;
  const fs::path bin = fs::read_symlink("/proc/self/exe", error).parent_path();
  const fs::path candidates[] = {bin / "../share/moed/demo", bin / "../../../config/demo"};
  for (const fs::path& candidate : candidates) {
    if (fs::exists(candidate / "config.json", error)) {
      return candidate.lexically_normal().string();
    }
  }
  return absl::NotFoundError(absl::StrFormat(
      "no model was named, and the bundled demo model is neither in %s nor in %s",
      candidates[0].lexically_normal().string(), candidates[1].lexically_normal().string()));
}

absl::StatusOr<std::string> ModelDir(const DaemonConfig& config) {
  if (config.model.empty()) return BundledModelDir();
  std::error_code error;
  if (fs::is_directory(config.model, error)) return config.model;
  return absl::NotFoundError(absl::StrFormat("model: %s is not a directory", config.model));
}

std::string ServedName(const DaemonConfig& config, const std::string& model_dir) {
  if (!config.served_model_name.empty()) return config.served_model_name;
  if (config.model.empty()) return "demo";
  fs::path path = fs::path(model_dir).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

absl::StatusOr<int32_t> NumThreads(const DaemonConfig& config) {
  if (config.threads > 0) return config.threads;
  MOED_ASSIGN_OR_RETURN(const int32_t num_cpus, NumUsableCpus());
  return std::max(num_cpus / config.ranks, 1);
}

// The ids that have no token though a larger one has. They travel with every step of a sequence.
absl::StatusOr<std::vector<int32_t>> HolesBelow(int32_t vocab_size, const Tokenizer& tokenizer) {
  constexpr size_t kMaxHoles = 4096;
  std::vector<int32_t> holes;
  for (int32_t id = 0; id < vocab_size; ++id) {
    if (tokenizer.IdToPiece(id).empty()) holes.push_back(id);
  }
  if (holes.size() <= kMaxHoles) return holes;
  return absl::UnimplementedError(
      absl::StrFormat("tokenizer.json has no token for %d of the ids below %d; at most %d are "
                      "supported",
                      holes.size(), vocab_size, kMaxHoles));
}

absl::Status LoadModel(const DaemonConfig& config, LaunchPlan& plan) {
  MOED_ASSIGN_OR_RETURN(plan.model_dir, ModelDir(config));
  MOED_ASSIGN_OR_RETURN(plan.model.config, LoadModelConfig(plan.model_dir));
  MOED_ASSIGN_OR_RETURN(plan.model.defaults, LoadGenerationDefaults(plan.model_dir));
  MOED_ASSIGN_OR_RETURN(plan.tokenizer, Tokenizer::Load(plan.model_dir));
  plan.model.name = ServedName(config, plan.model_dir);
  plan.model.vocab_size =
      std::min(plan.tokenizer->vocab_size(), static_cast<int32_t>(plan.model.config.vocab_size));
  MOED_ASSIGN_OR_RETURN(plan.model.hole_token_ids,
                        HolesBelow(plan.model.vocab_size, *plan.tokenizer));
  // An id that is never sampled never ends anything, and must not be banned either.
  std::erase_if(plan.model.config.eos_token_ids, [&plan](int32_t id) {
    return id >= plan.model.vocab_size || std::ranges::binary_search(plan.model.hole_token_ids, id);
  });
  plan.model.max_text_bytes = config.max_text_bytes;
  plan.model.dtype = config.dtype;
  plan.model.block_size = config.block_size;
  plan.model.server_version = MOED_VERSION;
  if (config.max_model_len > plan.model.config.max_positions) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_model_len: %d is more than the model's %d positions",
                        config.max_model_len, plan.model.config.max_positions));
  }
  return absl::OkStatus();
}

// "cpu"; "cuda": rank N on GPU N; "cuda:N": all ranks on one GPU, which is slow and for tests.
absl::StatusOr<std::string> Device(const DaemonConfig& config) {
  absl::string_view gpu = config.device;
  uint32_t index = 0;
  if (config.device == "cpu" || config.device == "cuda" ||
      (absl::ConsumePrefix(&gpu, "cuda:") && absl::SimpleAtoi(gpu, &index))) {
    return config.device;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("device: expected cpu, cuda or cuda:N, got '%s'", config.device));
}

absl::Status FillEngineConfig(const DaemonConfig& config, LaunchPlan& plan) {
  EngineConfig& engine = plan.engine;
  engine.model_dir = plan.model_dir;
  engine.dummy_weights = config.load_format == "dummy";
  engine.dummy_seed = static_cast<uint64_t>(config.dummy_seed);
  engine.placement = plan.placement;
  MOED_ASSIGN_OR_RETURN(engine.device, Device(config));
  engine.nccl_library = config.nccl_library;
  // Ranks of one host wait for each other so little that the bytes decide.
  const std::string automatic = engine.device == "cpu" ? "all_to_all" : "measured";
  MOED_ASSIGN_OR_RETURN(
      engine.exchange,
      ParseExchangeStrategy(config.exchange == "auto" ? automatic : config.exchange));
  MOED_ASSIGN_OR_RETURN(const EngineDType dtype, ParseEngineDType(config.dtype));
  engine.activation_dtype = dtype.activation;
  engine.weight_format = dtype.weights;
  engine.numerics =
      config.numerics == "fast" ? kernels::Numerics::kFast : kernels::Numerics::kInvariant;
  engine.kv_dtype = config.kv_dtype == "f32" ? DType::kF32 : DType::kBF16;
  MOED_ASSIGN_OR_RETURN(engine.num_threads, NumThreads(config));
  engine.instruction_set = config.instruction_set;
  engine.block_size = config.block_size;
  engine.max_tokens_per_step = config.max_tokens_per_step;
  engine.max_sequences_per_step = config.max_sequences_per_step;
  engine.max_model_len = config.max_model_len;
  engine.num_valid_tokens = plan.model.vocab_size;
  engine.exchange_timeout = absl::Seconds(config.step_timeout_s);
  return absl::OkStatus();
}

LocalEngineOptions ToEngineOptions(const EngineConfig& engine) {
  return {.backend = {.device = engine.device,
                      .activation_dtype = engine.activation_dtype,
                      .num_threads = engine.num_threads,
                      .instruction_set = engine.instruction_set,
                      .numerics = engine.numerics},
          .kv_dtype = engine.kv_dtype,
          .block_size = engine.block_size,
          .num_blocks = std::max(engine.num_blocks, 1),  // not known yet
          .max_tokens_per_step = engine.max_tokens_per_step,
          .max_sequences_per_step = engine.max_sequences_per_step,
          .max_model_len = engine.max_model_len,
          .exchange = engine.exchange,
          .num_valid_tokens = engine.num_valid_tokens};
}

absl::StatusOr<int64_t> AvailableBytes(const DaemonConfig& config) {
  if (config.memory_limit_gib > 0) return static_cast<int64_t>(config.memory_limit_gib * kGib);
  if (config.device != "cpu") {
    return AvailableDeviceBytes({.engine_binary = config.engine_binary,
                                 .device = config.device,
                                 .num_ranks = config.ranks});
  }
  return AvailableMemoryBytes();
}

absl::StatusOr<MemoryPlan> PlanMemory(const DaemonConfig& config, const LaunchPlan& plan) {
  MemoryPlanInputs inputs;
  const LocalEngineOptions options = ToEngineOptions(plan.engine);
  WeightLoaderOptions loader = {
      .model_dir = plan.model_dir,
      .format = plan.engine.dummy_weights ? LoadFormat::kDummy : LoadFormat::kAuto,
      .weight_format = plan.engine.weight_format};
  for (loader.rank = 0; loader.rank < config.ranks; ++loader.rank) {
    MOED_ASSIGN_OR_RETURN(const EngineMemory memory,
                          EstimateMemory(plan.model.config, plan.placement, loader, options));
    inputs.ranks.push_back(memory);
  }
  MOED_ASSIGN_OR_RETURN(inputs.available_bytes, AvailableBytes(config));
  // A limit that was asked for is taken at its word.
  if (config.memory_limit_gib == 0) {
    inputs.reserved_bytes = std::max(kMinReservedBytes, inputs.available_bytes / kReservedShare);
  }
  inputs.block_size = config.block_size;
  inputs.num_blocks = config.num_blocks;
  inputs.max_sequences_per_step = config.max_sequences_per_step;
  inputs.max_model_len = config.max_model_len;
  inputs.model_max_len = static_cast<int32_t>(plan.model.config.max_positions);
  return MakeMemoryPlan(inputs);
}

absl::Status FillExchangeBytes(LaunchPlan& plan) {
  if (plan.placement.num_ranks == 1) return absl::OkStatus();
  MOED_ASSIGN_OR_RETURN(plan.engine.max_exchange_bytes_per_rank,
                        MaxExchangeBytesPerRank(ExchangeShapeOf(plan.model.config, plan.placement,
                                                                ToEngineOptions(plan.engine))));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LaunchPlan> MakeLaunchPlan(const DaemonConfig& config) {
  LaunchPlan plan;
  MOED_RETURN_IF_ERROR(LoadModel(config, plan));
  const ModelConfig& model = plan.model.config;
  MOED_ASSIGN_OR_RETURN(
      plan.placement,
      LoadPlacement(config.expert_placement, static_cast<int32_t>(model.num_moe_layers()),
                    static_cast<int32_t>(model.num_experts), config.ranks));
  MOED_RETURN_IF_ERROR(FillEngineConfig(config, plan));
  MOED_ASSIGN_OR_RETURN(plan.memory, PlanMemory(config, plan));
  plan.engine.num_blocks = plan.memory.num_blocks;
  plan.engine.max_model_len = plan.memory.max_model_len;
  plan.model.max_model_len = plan.memory.max_model_len;
  MOED_RETURN_IF_ERROR(FillExchangeBytes(plan));
  return plan;
}

}  // namespace moed
