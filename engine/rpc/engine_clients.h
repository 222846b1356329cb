#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/api/engine.h"
#include "engine/api/step.h"
#include "engine/rpc/engine_config.h"

namespace moed {

struct LoadProgress {
  int64_t done_bytes = 0;
  int64_t total_bytes = 0;
};

/// The name of the group of ranks, from rank 0, for all others.
struct GroupName {
  std::string name;
};

/// One thing that an engine said. A Status (never OK) is the last: its session is over.
struct EngineEvent {
  int32_t rank = 0;
  std::variant<LoadProgress, EngineInfo, StepResult, absl::Status, GroupName> what;
};

/// The daemon's end of the wire to all engines of a group: one session with each.
///
/// Owned by the engine group. Called from one thread, except Cancel. The messages of all ranks come
/// in one queue, so that a caller sees whichever rank answers or fails first.
class EngineClients {
 public:
  /// Connects to addresses[rank] ("unix:PATH") in the background; engines that do not listen yet
  /// are waited for.
  explicit EngineClients(const std::vector<std::string>& addresses);
  EngineClients(const EngineClients&) = delete;
  EngineClients& operator=(const EngineClients&) = delete;
  ~EngineClients();  // cancels what is left

  /// Sends without waiting. INVALID_ARGUMENT for a message that is too long; a broken session shows
  /// as an event instead.
  absl::Status SendConfig(int32_t rank, const EngineConfig& config);
  absl::Status SendGroupName(int32_t rank, const GroupName& group);
  absl::Status SendPlan(int32_t rank, const StepPlan& plan);

  /// The next event of any rank; nothing when there was none within `timeout`.
  std::optional<EngineEvent> Next(absl::Duration timeout);

  /// Ends all sessions: each yields a CANCELLED event unless it had ended. From any thread.
  void Cancel();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moed
