#include "tests/fakes/mini_driver.h"

#include <algorithm>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

struct RunningSequence {
  const DrivenSequence* spec = nullptr;
  std::vector<int32_t> tokens;  // prompt and output
  std::vector<int32_t> block_table;
  int32_t num_computed = 0;  // tokens whose K and V are in the cache
  bool prefix_taken = false;
  bool preempted = false;
  std::vector<SampledToken> output;

  bool finished() const { return static_cast<int32_t>(output.size()) >= spec->num_new_tokens; }
  bool prompt_computed() const { return num_computed >= static_cast<int32_t>(spec->prompt.size()); }
};

class Driver {
 public:
  Driver(LocalEngineGroup& group, const std::vector<DrivenSequence>& specs, int32_t chunk,
         uint64_t placement_epoch)
      : group_(group), chunk_(chunk), placement_epoch_(placement_epoch) {
    for (const DrivenSequence& spec : specs) {
      sequences_.push_back({.spec = &spec, .tokens = spec.prompt});
    }
    for (int32_t rank = 0; rank < group.num_ranks(); ++rank) {
      std::vector<int32_t>& blocks = free_blocks_.emplace_back();
      for (int32_t block = 0; block < group.info(rank).num_blocks; ++block) {
        blocks.push_back(block);
      }
    }
  }

  absl::StatusOr<std::vector<std::vector<SampledToken>>> Run() {
    for (int32_t step = 0; !AllFinished(); ++step) {
      MOED_ASSIGN_OR_RETURN(const std::vector<StepPlan> plans, MakePlans(step));
      MOED_ASSIGN_OR_RETURN(const std::vector<StepResult> results, group_.Execute(plans));
      Apply(plans, results);
    }
    std::vector<std::vector<SampledToken>> outputs;
    for (RunningSequence& sequence : sequences_) outputs.push_back(std::move(sequence.output));
    return outputs;
  }

 private:
  bool AllFinished() const {
    return std::all_of(sequences_.begin(), sequences_.end(),
                       [](const RunningSequence& s) { return s.finished(); });
  }

  absl::StatusOr<std::vector<StepPlan>> MakePlans(int32_t step) {
    std::vector<StepPlan> plans(group_.num_ranks());
    std::vector<int32_t> num_tokens(group_.num_ranks(), 0);
    for (uint64_t id = 0; id < sequences_.size(); ++id) {
      RunningSequence& sequence = sequences_[id];
      const int32_t rank = sequence.spec->rank;
      const EngineInfo& info = group_.info(rank);
      const int32_t room = info.max_tokens_per_step - num_tokens[rank];
      if (sequence.finished() || step < sequence.spec->first_step || room == 0 ||
          static_cast<int32_t>(plans[rank].slices.size()) >= info.max_sequences_per_step ||
          !TakePrefix(sequence)) {
        continue;
      }
      MOED_ASSIGN_OR_RETURN(Slice slice, MakeSlice(id, room));
      num_tokens[rank] += static_cast<int32_t>(slice.token_ids.size());
      plans[rank].slices.push_back(std::move(slice));
    }
    for (StepPlan& plan : plans) {
      plan.step_id = static_cast<uint64_t>(step);
      plan.placement_epoch = placement_epoch_;
      plan.num_tokens_per_rank = num_tokens;
    }
    return plans;
  }

  /// False while the sequence waits for the prompt that it shares blocks with.
  bool TakePrefix(RunningSequence& sequence) {
    if (sequence.spec->shares_prefix_with < 0 || sequence.prefix_taken || sequence.preempted) {
      return true;
    }
    const RunningSequence& donor = sequences_[sequence.spec->shares_prefix_with];
    if (!donor.prompt_computed()) return false;
    const std::vector<int32_t>& mine = sequence.spec->prompt;
    const std::vector<int32_t>& theirs = donor.spec->prompt;
    const auto common =
        std::mismatch(mine.begin(), mine.end(), theirs.begin(), theirs.end()).first - mine.begin();
    // At least one token must be computed, or there are no logits.
    const int32_t block_size = group_.info(sequence.spec->rank).block_size;
    const int32_t num_blocks =
        std::min(static_cast<int32_t>(common), static_cast<int32_t>(mine.size()) - 1) / block_size;
    sequence.block_table.assign(donor.block_table.begin(), donor.block_table.begin() + num_blocks);
    sequence.num_computed = num_blocks * block_size;
    sequence.prefix_taken = true;
    return true;
  }

  absl::StatusOr<Slice> MakeSlice(uint64_t id, int32_t room) {
    RunningSequence& sequence = sequences_[id];
    const int32_t num_left = static_cast<int32_t>(sequence.tokens.size()) - sequence.num_computed;
    const int32_t num_new = std::min({num_left, chunk_, room});
    const int32_t end = sequence.num_computed + num_new;
    MOED_RETURN_IF_ERROR(GrowBlockTable(sequence, end));
    Slice slice{.sequence_id = id,
                .start_position = sequence.num_computed,
                .token_ids = {sequence.tokens.begin() + sequence.num_computed,
                              sequence.tokens.begin() + end},
                .block_table = sequence.block_table};
    if (num_new == num_left) {
      slice.sample = SampleRequest{.params = sequence.spec->sampling,
                                   .sequence_index = sequence.spec->sequence_index,
                                   .position = end};
      if (sequence.spec->sampling.UsesPenalties()) {
        slice.sample->token_counts = CountTokens(sequence);
      }
    }
    return slice;
  }

  absl::Status GrowBlockTable(RunningSequence& sequence, int32_t num_positions) {
    std::vector<int32_t>& free_blocks = free_blocks_[sequence.spec->rank];
    const int32_t block_size = group_.info(sequence.spec->rank).block_size;
    while (static_cast<int32_t>(sequence.block_table.size()) * block_size < num_positions) {
      if (free_blocks.empty()) {
        return absl::ResourceExhaustedError(
            absl::StrCat("mini driver: rank ", sequence.spec->rank, " has no free block"));
      }
      sequence.block_table.push_back(free_blocks.back());
      free_blocks.pop_back();
    }
    return absl::OkStatus();
  }

  static std::vector<TokenCount> CountTokens(const RunningSequence& sequence) {
    std::map<int32_t, TokenCount> counts;
    for (size_t i = 0; i < sequence.tokens.size(); ++i) {
      TokenCount& count = counts[sequence.tokens[i]];
      count.token_id = sequence.tokens[i];
      ++(i < sequence.spec->prompt.size() ? count.num_in_prompt : count.num_in_output);
    }
    std::vector<TokenCount> list;
    for (const auto& [token_id, count] : counts) list.push_back(count);
    return list;
  }

  void Apply(const std::vector<StepPlan>& plans, const std::vector<StepResult>& results) {
    for (const StepPlan& plan : plans) {
      for (const Slice& slice : plan.slices) {
        sequences_[slice.sequence_id].num_computed += static_cast<int32_t>(slice.token_ids.size());
      }
    }
    for (const StepResult& result : results) {
      for (const SampledToken& token : result.sampled) {
        RunningSequence& sequence = sequences_[token.sequence_id];
        sequence.output.push_back(token);
        sequence.tokens.push_back(token.token_id);
        if (static_cast<int32_t>(sequence.output.size()) == sequence.spec->preempt_after) {
          Preempt(sequence);
        }
      }
    }
  }

  /// Blocks go back in another order than they came, so that the sequence continues in other
  /// memory. Blocks of a shared prefix belong to their donor.
  void Preempt(RunningSequence& sequence) {
    std::vector<int32_t>& free_blocks = free_blocks_[sequence.spec->rank];
    if (!sequence.prefix_taken) {
      free_blocks.insert(free_blocks.begin(), sequence.block_table.begin(),
                         sequence.block_table.end());
    }
    sequence.block_table.clear();
    sequence.num_computed = 0;
    sequence.preempted = true;
  }

  LocalEngineGroup& group_;
  const int32_t chunk_;
  const uint64_t placement_epoch_;
  std::vector<RunningSequence> sequences_;
  std::vector<std::vector<int32_t>> free_blocks_;  // [num_ranks]
};

}  // namespace

absl::StatusOr<std::vector<std::vector<SampledToken>>> Drive(
    LocalEngineGroup& group, const std::vector<DrivenSequence>& sequences, int32_t chunk,
    uint64_t placement_epoch) {
  return Driver(group, sequences, chunk, placement_epoch).Run();
}

}  // namespace moed
