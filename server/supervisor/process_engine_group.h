#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/rpc/engine_clients.h"
#include "engine/rpc/engine_config.h"
#include "server/supervisor/engine_group.h"
#include "server/supervisor/engine_processes.h"
#include "server/supervisor/load_progress_log.h"

namespace moed {

struct ProcessEngineGroupOptions {
  std::string engine_binary;             // empty = moed-engine beside this program
  std::vector<std::string> engine_args;  // more flags for every engine, e.g. --log-level=debug
  /// Of every rank; placement.num_ranks engines are started. `rank` and `cpus` are filled in, and
  /// device "cuda" becomes "cuda:RANK".
  EngineConfig engine;
  absl::Duration load_timeout = absl::Minutes(60);  // of Start, from the fork to the last weight
  absl::Duration step_timeout = absl::Seconds(30);  // longer than engine.exchange_timeout
  absl::Duration stop_timeout = absl::Seconds(2);   // from SIGTERM to SIGKILL
};

/// What is known about the process of one rank.
struct RankProcess {
  pid_t pid = -1;   // -1 = never started
  bool up = false;  // runs; loading included
  int32_t num_restarts = 0;
  double weights_loaded_ratio = 0;  // [0, 1]
};

/// The engines of all ranks as processes of this host, started, watched and restarted together.
///
/// Owned by the daemon. Calls come from one thread, except for rank_processes() and Cancel(), which
/// may come from any. Each child has a thread that forks it, logs its output and notices its end.
class ProcessEngineGroup final : public EngineGroup {
 public:
  explicit ProcessEngineGroup(ProcessEngineGroupOptions options);
  ProcessEngineGroup(const ProcessEngineGroup&) = delete;
  ProcessEngineGroup& operator=(const ProcessEngineGroup&) = delete;
  ~ProcessEngineGroup() override;  // asks the engines to end, and ends those that do not

  absl::Status Start() override;
  const std::vector<EngineInfo>& infos() const override { return infos_; }
  absl::StatusOr<std::vector<StepResult>> Execute(std::vector<StepPlan> plans) override;
  absl::Status Restart() override;
  void SetDeathCallback(std::function<void()> callback) override {
    on_death_ = std::move(callback);
  }

  /// For good: whatever is called afterwards returns CANCELLED too.
  void Cancel() override;

  /// [num_ranks], at this moment.
  std::vector<RankProcess> rank_processes() const;

 private:
  enum class State { kStopped, kStarting, kIdle, kInStep, kLost };
  struct RankFailure {
    int32_t rank = 0;
    absl::Status status;
  };

  int32_t num_ranks() const { return options_.engine.placement.num_ranks; }
  EngineConfig ConfigOfRank(int32_t rank) const;

  absl::Status StartEngines();
  absl::Status Spawn();
  absl::Status SendConfigs();
  absl::Status AwaitInfos();
  absl::Status OnLoadEvent(const EngineEvent& event, LoadProgressLog& log);
  void OnProgress(int32_t rank, const LoadProgress& progress, LoadProgressLog& log);
  absl::Status OnGroupName(int32_t rank, const GroupName& group);
  absl::Status OnInfo(int32_t rank, const EngineInfo& info);
  void StopEngines(absl::Duration patience);

  absl::StatusOr<std::vector<StepResult>> RunStep(const std::vector<StepPlan>& plans);
  absl::StatusOr<std::vector<StepResult>> AwaitResults(const std::vector<StepPlan>& plans);

  absl::Status EnterState(State state);
  void OnEnd(int32_t rank, const ProcessEnd& end);
  EngineClients& clients() const;
  std::optional<EngineEvent> NextEvent(absl::Duration timeout);
  absl::Status FindCause(RankFailure failure);
  std::optional<RankFailure> first_death() const;
  bool cancelled() const;

  const ProcessEngineGroupOptions options_;
  std::function<void()> on_death_;  // set before Start
  std::vector<EngineInfo> infos_;
  std::unique_ptr<EngineProcesses> processes_;

  mutable absl::Mutex mutex_;
  State state_ ABSL_GUARDED_BY(mutex_) = State::kStopped;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::unique_ptr<EngineClients> clients_
      ABSL_GUARDED_BY(mutex_);  // replaced by the calling thread
  std::optional<RankFailure> first_death_ ABSL_GUARDED_BY(mutex_);
  std::vector<RankProcess> rank_processes_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moed
