#pragma once

#include <cstdint>
#include <vector>

#include "client/load/prompts/expert_tilt.h"
#include "client/load/prompts/prompt_source.h"

namespace moed::load {

/// Small vocabularies, the topics from which skewed prompts draw: a prompt of few different tokens
/// goes to few experts. Topic i has 1, 2, 4, 8 or 16 of them.
std::vector<std::vector<int32_t>> MakeTopics(const TokenRange& tokens, int count, uint64_t seed);

/// Prompts that load some experts more than others: each draws its tokens from one topic, and the
/// topics are mixed by a tilt. With a drift period the tilts take turns.
class SkewedPrompts final : public PromptSource {
 public:
  struct Params {
    std::vector<std::vector<int32_t>> topics;
    std::vector<std::vector<double>> mixes;  // weights per topic; at least one mix
    double drift_seconds = 0;                // 0 = the first mix throughout
    LengthParams lengths;
  };

  explicit SkewedPrompts(Params params);
  Prompt Make(const PromptRequest& request) const override;

 private:
  const Params params_;
  std::vector<std::vector<double>> bounds_;  // [mix][topic], cumulative
};

}  // namespace moed::load
