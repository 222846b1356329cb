#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/runtime/local_engine_group.h"

namespace moed {

inline constexpr int32_t kBenchBlockSize = 16;  // tokens per KV block

/// The command line of moed-bench, as given.
struct BenchOptions {
  std::string model_dir;  // exactly one of these two
  std::string config_json;
  std::string load_format = "auto";  // "auto" or "dummy"
  std::string device = "cpu";
  std::string instruction_set;  // "" = the best of this machine
  std::string dtype = "bf16";
  std::string numerics = "invariant";       // or "fast"
  std::string expert_placement = "linear";  // or "round_robin"
  int32_t num_ranks = 1;
  int32_t num_threads = 1;            // of each rank
  int32_t num_prompt_tokens = 512;    // of each sequence
  int32_t num_generated_tokens = 64;  // of each sequence
  std::vector<int32_t> batches = {1};
  int32_t num_mixed_tokens = 0;  // prompt tokens in each step of the mixed test; 0 = no such test
  int32_t max_tokens_per_step = 512;  // of each rank
  int32_t num_repetitions = 3;
  uint64_t seed = 1;
  bool shared_prompt = false;  // all sequences have the prompt of the first one of their rank
  bool pin = true;             // threads to CPUs of their own, where there are enough
  bool ceilings = true;        // measure what the machine can do at best
  bool json = false;
};

/// Most sequences that one rank owns at the largest batch.
int32_t MaxSequencesPerRank(const BenchOptions& options);

/// Most positions of a sequence: prompt, generation, and one for each step of the mixed test.
int64_t NumPositions(const BenchOptions& options);

/// Most prompt tokens that a rank computes in a step of the prefill test.
int32_t MaxPromptTokensPerStep(const BenchOptions& options);

/// The CPUs of each rank's threads, disjoint: rank r has the r-th num_threads of those that this
/// process may use. Nothing when there are fewer CPUs than threads, or without --pin.
std::vector<std::vector<int>> CpusPerRank(const BenchOptions& options);

/// INVALID_ARGUMENT or UNIMPLEMENTED for wrong usage, NOT_FOUND and the like for a model that
/// cannot be read.
absl::StatusOr<LocalEngineGroupOptions> MakeGroupOptions(const BenchOptions& options);

}  // namespace moed
