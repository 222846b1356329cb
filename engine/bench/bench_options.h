#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/runtime/local_engine_group.h"

namespace moed {

/// The command line of moed-bench, as given.
struct BenchOptions {
  std::string model_dir;  // exactly one of these two
  std::string config_json;
  std::string load_format = "auto";  // "auto" or "dummy"
  std::string device = "cpu";
  std::string instruction_set;  // "" = the best of this machine
  std::string dtype = "bf16";
  std::string expert_placement = "linear";  // or "round_robin"
  int32_t num_ranks = 1;
  int32_t num_threads = 1;            // of each rank
  int32_t num_prompt_tokens = 512;    // of each sequence
  int32_t num_generated_tokens = 64;  // of each sequence
  std::vector<int32_t> batches = {1};
  int32_t max_tokens_per_step = 512;  // of each rank
  int32_t num_repetitions = 3;
  uint64_t seed = 1;
  bool json = false;
};

/// Most sequences that one rank owns at the largest batch.
int32_t MaxSequencesPerRank(const BenchOptions& options);

/// INVALID_ARGUMENT or UNIMPLEMENTED for wrong usage, NOT_FOUND and the like for a model that
/// cannot be read.
absl::StatusOr<LocalEngineGroupOptions> MakeGroupOptions(const BenchOptions& options);

}  // namespace moed
