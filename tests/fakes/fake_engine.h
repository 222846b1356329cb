#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "engine/api/engine.h"
#include "engine/rpc/engine_config.h"

namespace moed {

/// What a fake engine does wrong, and when.
struct FakeFault {
  std::string kind;      // see fake_engine.cc; "" = nothing
  int32_t rank = 0;      // only this one misbehaves
  uint64_t step_id = 0;  // for the kinds that end in "_in_step"
  std::string once;      // when set: only if this file exists, which is removed then
};

/// Carries out a fault that belongs to the start of the process.
void FailAtStart(const FakeFault& fault, int32_t rank);

/// An engine without a model: it answers every slice that asks with FakeToken, at once.
absl::StatusOr<std::unique_ptr<Engine>> CreateFakeEngine(const EngineConfig& config,
                                                         const LoadHooks& hooks,
                                                         const FakeFault& fault);

/// The token that a fake engine samples after `slice`.
int32_t FakeToken(const Slice& slice);

}  // namespace moed
