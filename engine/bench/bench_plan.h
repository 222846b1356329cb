#pragma once

#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "engine/api/step.h"
#include "engine/bench/bench_options.h"

namespace moed {

/// Where sequences keep their K and V on each rank: the blocks of a shared prompt, then the own
/// blocks of one sequence after another, then those of the prompt of a mixed test.
struct KvLayout {
  int32_t num_shared_blocks =
      0;                       // whole blocks only; the rest of a shared prompt is each one's own
  int32_t num_own_blocks = 0;  // of each sequence
  int32_t num_sequences = 0;   // of a rank at the largest batch
  int32_t num_mixed_blocks = 0;

  int64_t num_blocks() const {
    return num_shared_blocks + int64_t{num_own_blocks} * num_sequences + num_mixed_blocks;
  }
  int32_t num_shared_positions() const { return num_shared_blocks * kBenchBlockSize; }
};

KvLayout MakeKvLayout(const BenchOptions& options);

/// What one step, or several, ask of the machine apart from the experts; summed over the ranks.
struct StepLoad {
  int64_t num_prompt_tokens = 0;
  int64_t num_decoded_tokens = 0;
  int64_t num_sampled = 0;
  int64_t num_working_ranks = 0;    // with tokens: each reads its own copy of the shared weights
  int64_t num_sampling_ranks = 0;   // each reads its own copy of the head
  int64_t num_kv_positions = 0;     // read, a shared one once for each rank
  int64_t num_attention_pairs = 0;  // of a query row and a position that it sees

  int64_t num_tokens() const { return num_prompt_tokens + num_decoded_tokens; }
  StepLoad& operator+=(const StepLoad& other);
};

struct BenchStep {
  std::vector<StepPlan> plans;  // [num_ranks]
  StepLoad load;
};

/// Plans the steps of one batch: prompts, then decoding, then decoding beside a prompt. Sequence i
/// belongs to rank i % num_ranks; every token is random. Owned by a run, used from its thread.
class BenchPlanner {
 public:
  BenchPlanner(const BenchOptions& options, int32_t batch, int32_t vocab_size);

  /// Forgets what is computed, and sets the random tokens going from `seed`.
  void Restart(uint64_t seed);

  /// The next step of the prompts of all sequences; nothing when they are computed. A shared prompt
  /// is computed by the first sequence of each rank alone.
  std::optional<BenchStep> PlanPrompt();
  /// One more token of every sequence.
  BenchStep PlanGeneration();
  /// The same, and the next chunk of a prompt of another sequence, until that is computed.
  std::optional<BenchStep> PlanMixed();

 private:
  struct Building;

  void ShareComputedPrompts();
  void AddDecodes(Building& building);
  void AddSlice(Building& building, int32_t id, int32_t num_new);
  int32_t BlockOf(int32_t id, int32_t index) const;
  bool SharesPrompt(int32_t id) const { return id < batch_ && layout_.num_shared_blocks > 0; }
  int32_t RankOf(int32_t id) const { return id % options_.num_ranks; }
  BenchStep Finish(Building building);

  const BenchOptions options_;
  const int32_t batch_;
  const KvLayout layout_;
  std::uniform_int_distribution<int32_t> any_token_;
  std::mt19937_64 rng_;
  uint64_t num_steps_ = 0;
  std::vector<int32_t> num_computed_;  // [batch + 1] positions; the last is the mixed prompt's
};

}  // namespace moed
