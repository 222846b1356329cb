#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/connection.h"
#include "client/load/load_flags.h"
#include "client/load/load_spec.h"
#include "client/load/prompts/expert_tilt.h"
#include "client/load/prompts/prompt_source.h"
#include "moed/v1/inference.pb.h"

namespace moed::load {

/// What came of --expert-balancedness.
struct ExpertSkew {
  double target = 0;
  double predicted = 0;  // of the first mix
  GroupKind groups = GroupKind::kRanks;
};

/// Makes the prompts of each run of a command. What has to be read, tokenized or measured is done
/// once, when it is created.
///
/// Owned by the command; used by its thread.
class PromptFactory {
 public:
  struct Params {
    const LoadFlags& flags;
    const LoadSpec& spec;
    const Connection& connection;
    const Connection& admin;
    const v1::GetModelResponse& model;
    std::function<bool()> is_stopped;
  };

  static absl::StatusOr<std::unique_ptr<PromptFactory>> Create(const Params& params);

  /// Of the run of this number; runs have different prompts, unless they come from a file.
  std::unique_ptr<PromptSource> Make(int run) const;

  const std::optional<ExpertSkew>& skew() const { return skew_; }

 private:
  PromptFactory(const LoadFlags& flags, const LoadSpec& spec) : flags_(flags), spec_(spec) {}

  absl::Status ReadFile(const Params& params);
  absl::Status ReadShareGptFile(const Params& params, std::istream& in);
  absl::Status ReadJsonLines(const Params& params, std::istream& in);
  absl::Status TokenizeSonnets(const Params& params);
  absl::Status MeasureExperts(const Params& params);
  std::unique_ptr<PromptSource> MakeSource(const LengthParams& lengths) const;

  const LoadFlags& flags_;
  const LoadSpec& spec_;
  TokenRange tokens_;
  std::vector<PooledPrompts::Conversation> pool_;
  std::vector<std::vector<int32_t>> text_lines_;
  std::vector<std::vector<int32_t>> topics_;
  std::vector<std::vector<double>> mixes_;
  std::optional<ExpertSkew> skew_;
};

}  // namespace moed::load
