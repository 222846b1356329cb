#include "server/supervisor/engine_checks.h"

#include <cstdint>
#include <vector>

#include "absl/strings/str_cat.h"

namespace moed {

absl::Status CheckInfo(const EngineConfig& config, const EngineInfo& info) {
  const struct {
    const char* name;
    int64_t configured;
    int64_t reported;
  } fields[] = {
      {"rank", config.rank, info.rank},
      {"num_ranks", config.placement.num_ranks, info.num_ranks},
      {"block_size", config.block_size, info.block_size},
      {"num_blocks", config.num_blocks, info.num_blocks},
      {"max_tokens_per_step", config.max_tokens_per_step, info.max_tokens_per_step},
      {"max_sequences_per_step", config.max_sequences_per_step, info.max_sequences_per_step},
  };
  for (const auto& field : fields) {
    if (field.configured == field.reported) continue;
    return absl::InternalError(absl::StrCat("the engine reports ", field.name, " ", field.reported,
                                            ", but was configured with ", field.configured));
  }
  if (info.device != config.device) {
    return absl::InternalError(absl::StrCat("the engine reports device \"", info.device,
                                            "\", but was configured with \"", config.device, "\""));
  }
  return absl::OkStatus();
}

absl::Status CheckResult(const StepPlan& plan, const StepResult& result) {
  if (result.step_id != plan.step_id) {
    return absl::InternalError(absl::StrCat("the engine answered step ", plan.step_id,
                                            " with a result of step ", result.step_id));
  }
  size_t num_sampled = 0;
  for (const Slice& slice : plan.slices) {
    if (!slice.sample.has_value()) continue;
    if (num_sampled == result.sampled.size() ||
        result.sampled[num_sampled].sequence_id != slice.sequence_id) {
      return absl::InternalError(absl::StrCat("the engine's result of step ", plan.step_id,
                                              " has no token for sequence ", slice.sequence_id,
                                              " in its place"));
    }
    ++num_sampled;
  }
  if (num_sampled == result.sampled.size()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the engine's result of step ", plan.step_id, " has ",
                                          result.sampled.size(), " tokens, asked for ",
                                          num_sampled));
}

}  // namespace moed
