#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "config/model_config.h"
#include "engine/api/engine.h"
#include "engine/api/expert_placement.h"
#include "engine/runtime/local_engine.h"
#include "engine/runtime/step_limits.h"
#include "engine/weights/weight_loader.h"

namespace moed {

struct LocalEngineGroupOptions {
  ModelConfig config;
  ExpertPlacement placement;   // its num_ranks is the number of engines
  WeightLoaderOptions loader;  // `rank` is set for each engine
  LocalEngineOptions engine;   // of every rank
  /// [num_ranks] the cores of each rank's threads; empty = do not pin.
  std::vector<std::vector<int>> cpus_per_rank;
  absl::Duration exchange_timeout = absl::Seconds(60);
  /// Makes each rank's communicator, on its thread; null: shared memory of the host.
  std::function<absl::StatusOr<std::unique_ptr<Communicator>>(int32_t rank)> make_communicator;
};

/// All ranks of one model as threads of this process, over the shared-memory transport: the same
/// engines and the same exchange as between processes, for benchmarks and tests.
///
/// Used from one thread, which is the thread of rank 0's engine; every other engine has a thread of
/// its own.
class LocalEngineGroup {
 public:
  /// Loads all ranks at the same time. The first error in rank order, if any.
  static absl::StatusOr<std::unique_ptr<LocalEngineGroup>> Create(
      const LocalEngineGroupOptions& options);
  LocalEngineGroup(const LocalEngineGroup&) = delete;
  LocalEngineGroup& operator=(const LocalEngineGroup&) = delete;
  ~LocalEngineGroup();

  int32_t num_ranks() const;
  const EngineInfo& info(int32_t rank) const;

  /// Executes one step on all ranks: plans[r] on rank r. Returns [num_ranks] results, or the first
  /// error in rank order. INVALID_ARGUMENT if a plan is wrong or they contradict each other: then
  /// no rank has begun and the group is as before. After any other error the group is dead.
  absl::StatusOr<std::vector<StepResult>> Execute(std::span<const StepPlan> plans);

 private:
  class RankThread;
  explicit LocalEngineGroup(int32_t num_ranks);

  /// Calls job(rank) for every rank at the same time, each on its rank's thread.
  void RunOnAllRanks(const std::function<void(int32_t rank)>& job);

  absl::Status ValidatePlans(std::span<const StepPlan> plans) const;

  std::vector<StepLimits> limits_;                    // [num_ranks]
  std::vector<std::unique_ptr<Engine>> engines_;      // [num_ranks]
  std::vector<std::unique_ptr<RankThread>> threads_;  // [num_ranks - 1] of ranks 1, 2, ...
};

}  // namespace moed
