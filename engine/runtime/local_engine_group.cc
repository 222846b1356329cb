#include "engine/runtime/local_engine_group.h"

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/comm/shm_communicator.h"
#include "engine/runtime/memory_estimate.h"

namespace moed {

/// Runs one job at a time. Owned by the group; Start and Wait are called from the group's thread,
/// in turn.
///
/// With the standard library's mutex, not absl's: the thread sanitizer cannot see into a packaged
/// absl.
class LocalEngineGroup::RankThread {
 public:
  RankThread() : thread_([this] { Loop(); }) {}
  ~RankThread() {
    Start([this] { stopping_ = true; });
    thread_.join();
  }

  void Start(std::function<void()> job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      job_ = std::move(job);
    }
    changed_.notify_all();
  }

  /// Returns when the job is done; what it wrote is visible then.
  void Wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return job_ == nullptr; });
  }

 private:
  void Loop() {
    while (!stopping_) {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [this] { return job_ != nullptr; });
      lock.unlock();
      job_();  // nobody else touches a job that has not been waited for
      lock.lock();
      job_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> job_;  // guarded by mutex_ but while it runs; null = idle
  bool stopping_ = false;      // of the rank's thread
  std::thread thread_;         // last: it uses all of the above
};

namespace {

/// What the engine of one rank is made from; lives until all are made.
struct RankRecipe {
  const LocalEngineGroupOptions* options = nullptr;
  int32_t rank = 0;
  int segment_fd = -1;  // -1 with one rank
  int64_t max_bytes_per_rank = 0;
};

absl::StatusOr<std::unique_ptr<Communicator>> MakeCommunicator(const RankRecipe& recipe,
                                                               kernels::Backend& backend) {
  if (recipe.options->make_communicator) return recipe.options->make_communicator(recipe.rank);
  if (recipe.segment_fd < 0) return CreateSingleRankCommunicator();
  if (backend.op_stream() != nullptr) {
    return absl::UnimplementedError(absl::StrCat("engine group: ranks on ", backend.device(),
                                                 " need a process each, as moed gives them"));
  }
  return CreateShmCommunicator(recipe.segment_fd, {.rank = recipe.rank,
                                                   .num_ranks = recipe.options->placement.num_ranks,
                                                   .max_bytes_per_rank = recipe.max_bytes_per_rank,
                                                   .timeout = recipe.options->exchange_timeout});
}

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(const RankRecipe& recipe) {
  const LocalEngineGroupOptions& options = *recipe.options;
  WeightLoaderOptions loader = options.loader;
  loader.rank = recipe.rank;
  LocalEngineOptions engine = options.engine;
  if (!options.cpus_per_rank.empty()) engine.backend.cpus = options.cpus_per_rank[recipe.rank];
  return LocalEngine::Create(
      options.config, options.placement, loader, engine,
      [&recipe](kernels::Backend& backend) { return MakeCommunicator(recipe, backend); });
}

absl::Status CheckRanks(const LocalEngineGroupOptions& options) {
  const int32_t num_ranks = options.placement.num_ranks;
  if (num_ranks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine group: the placement has ", num_ranks, " ranks, expected 1 or more"));
  }
  if (!options.cpus_per_rank.empty() &&
      static_cast<int32_t>(options.cpus_per_rank.size()) != num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("engine group: cpus_per_rank has ",
                                                   options.cpus_per_rank.size(),
                                                   " entries, expected ", num_ranks));
  }
  return absl::OkStatus();
}

}  // namespace

LocalEngineGroup::LocalEngineGroup(int32_t num_ranks) : engines_(num_ranks) {
  for (int32_t rank = 1; rank < num_ranks; ++rank) {
    threads_.push_back(std::make_unique<RankThread>());
  }
}

LocalEngineGroup::~LocalEngineGroup() {
  RunOnAllRanks([this](int32_t rank) { engines_[rank].reset(); });
}

void LocalEngineGroup::RunOnAllRanks(const std::function<void(int32_t rank)>& job) {
  for (int32_t rank = 1; rank < num_ranks(); ++rank) {
    threads_[rank - 1]->Start([&job, rank] { job(rank); });
  }
  job(0);
  for (const std::unique_ptr<RankThread>& thread : threads_) thread->Wait();
}

absl::StatusOr<std::unique_ptr<LocalEngineGroup>> LocalEngineGroup::Create(
    const LocalEngineGroupOptions& options) {
  MOED_RETURN_IF_ERROR(CheckRanks(options));
  const int32_t num_ranks = options.placement.num_ranks;
  std::vector<StepLimits> limits(num_ranks);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    MOED_ASSIGN_OR_RETURN(
        limits[rank], ResolveStepLimits(options.config, options.placement, rank, options.engine));
  }
  UniqueFd segment;
  int64_t max_bytes = 0;
  if (num_ranks > 1 && !options.make_communicator) {
    MOED_ASSIGN_OR_RETURN(max_bytes, MaxExchangeBytesPerRank(ExchangeShapeOf(
                                         options.config, options.placement, options.engine)));
    MOED_ASSIGN_OR_RETURN(segment, CreateShmSegment(num_ranks, max_bytes));
  }

  std::unique_ptr<LocalEngineGroup> group(new LocalEngineGroup(num_ranks));
  group->limits_ = std::move(limits);
  std::vector<absl::Status> statuses(num_ranks);
  group->RunOnAllRanks([&](int32_t rank) {
    auto engine = MakeEngine({&options, rank, segment.get(), max_bytes});
    statuses[rank] = engine.status();
    if (engine.ok()) group->engines_[rank] = *std::move(engine);
  });
  for (const absl::Status& status : statuses) MOED_RETURN_IF_ERROR(status);
  return group;
}

int32_t LocalEngineGroup::num_ranks() const { return static_cast<int32_t>(engines_.size()); }

const EngineInfo& LocalEngineGroup::info(int32_t rank) const { return engines_[rank]->info(); }

absl::Status LocalEngineGroup::ValidatePlans(std::span<const StepPlan> plans) const {
  if (plans.size() != engines_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("engine group: ", plans.size(), " plans for ", engines_.size(), " ranks"));
  }
  for (size_t rank = 0; rank < plans.size(); ++rank) {
    MOED_RETURN_IF_ERROR(ValidateStepPlan(plans[rank], limits_[rank]));
    if (plans[rank].num_tokens_per_rank == plans[0].num_tokens_per_rank) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "engine group: the plan of rank ", rank,
        " has other num_tokens_per_rank than that of rank 0, expected the same on all ranks"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<StepResult>> LocalEngineGroup::Execute(std::span<const StepPlan> plans) {
  MOED_RETURN_IF_ERROR(ValidatePlans(plans));
  std::vector<absl::StatusOr<StepResult>> results(plans.size());
  RunOnAllRanks([&](int32_t rank) { results[rank] = engines_[rank]->Execute(plans[rank]); });
  std::vector<StepResult> values;
  for (absl::StatusOr<StepResult>& result : results) {
    MOED_RETURN_IF_ERROR(result.status());
    values.push_back(*std::move(result));
  }
  return values;
}

}  // namespace moed
