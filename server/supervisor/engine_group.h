#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/api/engine.h"
#include "engine/api/step.h"

namespace moed {

/// All ranks as one thing that takes a step. Called from the step loop's thread only.
///
/// Implementations: server/supervisor (processes), tests/fakes (in process).
class EngineGroup {
 public:
  virtual ~EngineGroup() = default;

  /// Starts and loads every rank; blocks. After it, infos() has one entry for each rank.
  virtual absl::Status Start() = 0;

  virtual const std::vector<EngineInfo>& infos() const = 0;

  /// plans[r] goes to rank r. Any error means the group is lost: call Restart() before the next
  /// step.
  virtual absl::StatusOr<std::vector<StepResult>> Execute(std::vector<StepPlan> plans) = 0;

  /// Ends what is left of the ranks and starts them again; KV memory is empty afterwards.
  virtual absl::Status Restart() = 0;

  /// `callback` is called once, from any thread, whenever a rank is found dead between steps. Set
  /// before Start().
  virtual void SetDeathCallback(std::function<void()> callback) = 0;

  /// Unblocks a Start, Execute or Restart in progress, which then return CANCELLED. From any
  /// thread.
  virtual void Cancel() = 0;
};

}  // namespace moed
