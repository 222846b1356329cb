#include "tests/fakes/fake_engine.h"

#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <numeric>

namespace moed {
namespace {

constexpr int64_t kWeightBytes = 1000;

/// True when `rank` is to misbehave in this way now.
bool Strikes(const FakeFault& fault, const char* kind, int32_t rank) {
  if (fault.kind != kind || fault.rank != rank) return false;
  return fault.once.empty() || ::unlink(fault.once.c_str()) == 0;
}

[[noreturn]] void Hang() {
  while (true) ::pause();
}

class FakeEngine final : public Engine {
 public:
  FakeEngine(EngineInfo info, FakeFault fault) : info_(std::move(info)), fault_(std::move(fault)) {}

  const EngineInfo& info() const override { return info_; }

  absl::StatusOr<StepResult> Execute(const StepPlan& plan) override {
    StepResult result{.step_id = plan.step_id};
    for (const Slice& slice : plan.slices) {
      if (!slice.sample.has_value()) continue;
      result.sampled.push_back({.sequence_id = slice.sequence_id, .token_id = FakeToken(slice)});
    }
    if (plan.step_id != fault_.step_id) return result;
    if (StrikesHere("kill_in_step")) ::raise(SIGKILL);
    if (StrikesHere("exit_in_step")) ::_exit(5);
    if (StrikesHere("hang_in_step")) Hang();
    if (StrikesHere("wrong_id_in_step")) ++result.step_id;
    if (StrikesHere("wrong_sequence_in_step")) ++result.sampled.at(0).sequence_id;
    if (StrikesHere("error_in_step")) return absl::InvalidArgumentError("slice 0 is too long");
    if (fault_.kind == "error_in_step") return absl::AbortedError("rank 1 left");
    return result;
  }

 private:
  bool StrikesHere(const char* kind) const { return Strikes(fault_, kind, info_.rank); }

  EngineInfo info_;
  const FakeFault fault_;
};

}  // namespace

void FailAtStart(const FakeFault& fault, int32_t rank) {
  if (Strikes(fault, "exit_at_start", rank)) ::_exit(3);
  if (Strikes(fault, "abort_at_start", rank)) ::raise(SIGABRT);
}

absl::StatusOr<std::unique_ptr<Engine>> CreateFakeEngine(const EngineConfig& config,
                                                         const LoadHooks& hooks,
                                                         const FakeFault& fault) {
  hooks.progress(kWeightBytes / 2, kWeightBytes);
  if (Strikes(fault, "kill_in_load", config.rank)) ::raise(SIGKILL);
  if (Strikes(fault, "hang_in_load", config.rank)) Hang();
  if (Strikes(fault, "error_in_load", config.rank)) {
    return absl::InvalidArgumentError("model.norm.weight is missing");
  }
  EngineInfo info{.rank = config.rank,
                  .num_ranks = config.placement.num_ranks,
                  .device = config.device,
                  .instruction_set = "none",
                  .dtype = "bf16",
                  .num_threads = config.num_threads,
                  .block_size = config.block_size,
                  .num_blocks = config.num_blocks,
                  .max_tokens_per_step = config.max_tokens_per_step,
                  .max_sequences_per_step = config.max_sequences_per_step,
                  .weight_bytes = kWeightBytes};
  if (Strikes(fault, "wrong_info", config.rank)) ++info.num_blocks;
  hooks.progress(kWeightBytes, kWeightBytes);
  return std::make_unique<FakeEngine>(std::move(info), fault);
}

int32_t FakeToken(const Slice& slice) {
  return std::accumulate(slice.token_ids.begin(), slice.token_ids.end(), slice.start_position);
}

}  // namespace moed
