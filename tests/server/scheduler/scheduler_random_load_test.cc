// Random loads against an engine group that checks every plan: whatever happens on the way, every
// request ends once, with the tokens it would have got alone, and no block is lost.

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "server/scheduler/scheduler.h"
#include "tests/fakes/fake_engine_group.h"

namespace moed {
namespace {

constexpr int32_t kVocab = 40;
constexpr int32_t kEos = 39;
constexpr int32_t kMaxModelLen = 48;

struct Load {
  int32_t num_ranks = 1;
  int32_t num_blocks = 64;
  int32_t max_tokens_per_step = 16;
  int32_t max_sequences_per_step = 6;
  bool prefix_caching = true;
  int32_t num_requests = 150;
};

class RandomLoad {
 public:
  RandomLoad(Load load, uint32_t seed)
      : load_(load),
        random_(seed),
        engines_({.num_ranks = load.num_ranks,
                  .block_size = 4,
                  .num_blocks = load.num_blocks,
                  .vocab_size = kVocab,
                  .max_tokens_per_step = load.max_tokens_per_step,
                  .max_sequences_per_step = load.max_sequences_per_step}),
        scheduler_({.num_blocks = std::vector<int32_t>(load.num_ranks, load.num_blocks),
                    .block_size = 4,
                    .max_model_len = kMaxModelLen,
                    .max_tokens_per_step = load.max_tokens_per_step,
                    .max_sequences_per_step = load.max_sequences_per_step,
                    .vocab_size = kVocab,
                    .eos_token_ids = {kEos},
                    .prefix_caching = load.prefix_caching}) {}

  void Run() {
    ASSERT_TRUE(engines_.Start().ok());
    int32_t num_added = 0;
    for (int step = 0; num_added < load_.num_requests || scheduler_.HasWork(); ++step) {
      ASSERT_LT(step, 200 * load_.num_requests) << "no end in sight";
      while (num_added < load_.num_requests && Chance(3)) AddRequest(num_added++);
      if (Chance(20)) RemoveAny();
      if (Chance(20)) FinishAny();
      ASSERT_NO_FATAL_FAILURE(Step());
    }
    CheckEnd();
  }

  int64_t num_preemptions() const { return scheduler_.counters().num_preemptions; }
  int64_t num_cache_hits() const { return scheduler_.counters().prefix_cache_hits; }

 private:
  struct Output {
    std::vector<int32_t> tokens;
    int num_finishes = 0;
    bool was_cut = false;  // by FinishAny
  };
  struct Live {
    Request request;
    std::vector<Output> outputs;
    bool was_removed = false;
  };

  bool Chance(uint32_t one_in) { return random_() % one_in == 0; }
  int32_t Below(int32_t end) { return static_cast<int32_t>(random_() % end); }

  void AddRequest(int32_t number) {
    auto live = std::make_unique<Live>();
    Request& request = live->request;
    request.id = std::to_string(number);
    // Few distinct beginnings, so that prefixes are shared.
    const int32_t first = Below(3);
    for (int32_t i = 0, size = 1 + Below(kMaxModelLen - 2); i < size; ++i) {
      request.prompt_token_ids.push_back(i < 12 ? first : Below(kEos));
    }
    request.sampling.seed = random_();
    request.sampling.temperature = static_cast<float>(Below(2));
    request.sampling.frequency_penalty = Chance(3) ? 0.5f : 0.0f;
    request.num_sequences = Chance(4) ? 1 + Below(4) : 1;
    request.stopping.max_tokens = 1 + Below(kMaxModelLen);
    request.stopping.min_tokens = Below(4);
    request.stopping.ignore_eos = Chance(4);
    if (Chance(2)) request.stopping.stop_token_ids = {Below(kEos)};
    request.priority = Below(3);
    request.tenant = Chance(2) ? "" : std::string(1, static_cast<char>('a' + Below(3)));
    request.cache_salt = Chance(4) ? "salt" : "";
    request.bypass_prefix_cache = Chance(8);
    live->outputs.resize(request.num_sequences);
    ASSERT_TRUE(scheduler_.Add(request).ok());
    requests_.push_back(std::move(live));
  }

  void RemoveAny() {
    if (requests_.empty()) return;
    Live& live = *requests_[Below(static_cast<int32_t>(requests_.size()))];
    live.was_removed = true;
    scheduler_.Remove(live.request.id);
  }

  void FinishAny() {
    if (requests_.empty()) return;
    Live& live = *requests_[Below(static_cast<int32_t>(requests_.size()))];
    if (live.was_removed) return;
    const int32_t index = Below(live.request.num_sequences);
    Output& output = live.outputs[index];
    if (output.num_finishes > 0) return;
    output.was_cut = true;
    ++output.num_finishes;
    scheduler_.Finish(live.request.id, index);
  }

  void Step() {
    const int64_t num_added = static_cast<int64_t>(requests_.size());
    auto step = scheduler_.Plan(absl::UnixEpoch() + absl::Seconds(num_added));
    ASSERT_EQ(step.has_value(), scheduler_.HasWork()) << "someone waits and nobody runs";
    if (!step) return;
    auto results = engines_.Execute(std::move(step->plans));
    ASSERT_TRUE(results.ok()) << results.status();
    auto outcomes = scheduler_.Apply(*results);
    ASSERT_TRUE(outcomes.ok()) << outcomes.status();
    for (const SequenceOutcome& outcome : *outcomes) {
      Live& live = *requests_[std::stoi(outcome.request->id)];
      Output& output = live.outputs[outcome.index];
      EXPECT_FALSE(live.was_removed);
      EXPECT_EQ(output.num_finishes, 0) << "a token after the end";
      output.tokens.push_back(outcome.token.token_id);
      output.num_finishes += outcome.end ? 1 : 0;
    }
  }

  // What the request gets when nothing else runs, worked out without a scheduler.
  static std::vector<int32_t> Alone(const Request& request, int32_t index) {
    std::vector<int32_t> tokens = request.prompt_token_ids;
    std::vector<int32_t> output;
    std::vector<int32_t> stops = request.stopping.stop_token_ids;
    if (!request.stopping.ignore_eos) stops.push_back(kEos);
    const auto limit = std::min<size_t>(request.stopping.max_tokens, kMaxModelLen - tokens.size());
    while (output.size() < limit) {
      SampleRequest sample{.params = request.sampling,
                           .sequence_index = static_cast<uint32_t>(index),
                           .position = static_cast<int64_t>(tokens.size())};
      if (static_cast<int32_t>(output.size()) < request.stopping.min_tokens) {
        sample.banned_token_ids = stops;
      }
      const int32_t token = FakeSample(tokens, sample, kVocab);
      tokens.push_back(token);
      output.push_back(token);
      if (std::ranges::find(stops, token) != stops.end()) break;
    }
    return output;
  }

  void CheckEnd() {
    EXPECT_TRUE(engines_.violations().empty());
    int num_complete = 0;
    for (const auto& live : requests_) {
      for (int32_t index = 0; index < live->request.num_sequences; ++index) {
        const Output& output = live->outputs[index];
        std::vector<int32_t> expected = Alone(live->request, index);
        if (live->was_removed || output.was_cut) {
          ASSERT_LE(output.tokens.size(), expected.size());
          expected.resize(output.tokens.size());
        } else {
          ++num_complete;
          EXPECT_EQ(output.num_finishes, 1);
        }
        EXPECT_EQ(output.tokens, expected) << "request " << live->request.id << " #" << index;
      }
      scheduler_.Remove(live->request.id);
    }
    EXPECT_GT(num_complete, load_.num_requests / 4);
    EXPECT_EQ(scheduler_.waiting_load().all.num_requests, 0);
    for (int32_t rank = 0; rank < load_.num_ranks; ++rank) {
      EXPECT_EQ(scheduler_.usage(rank).num_free_blocks, load_.num_blocks);
      EXPECT_EQ(scheduler_.usage(rank).num_running_sequences, 0);
    }
  }

  const Load load_;
  std::mt19937 random_;
  FakeEngineGroup engines_;
  Scheduler scheduler_;
  std::vector<std::unique_ptr<Live>> requests_;  // by number; a Request must not move
};

TEST(SchedulerRandomLoadTest, EveryRequestEndsOnceWithTheTokensItGetsAlone) {
  for (uint32_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    RandomLoad run({}, seed);
    ASSERT_NO_FATAL_FAILURE(run.Run());
    EXPECT_GT(run.num_cache_hits(), 0);
  }
}

TEST(SchedulerRandomLoadTest, PreemptionInATinyPoolChangesNoToken) {
  for (uint32_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    // 12 blocks of 4 are just the context: the longest request needs every one of them.
    RandomLoad run({.num_blocks = 12, .max_tokens_per_step = 9}, seed);
    ASSERT_NO_FATAL_FAILURE(run.Run());
    EXPECT_GT(run.num_preemptions(), 0);
  }
}

TEST(SchedulerRandomLoadTest, SeveralRanksChangeNoToken) {
  for (uint32_t seed = 0; seed < 8; ++seed) {
    SCOPED_TRACE(seed);
    RandomLoad run({.num_ranks = 2 + static_cast<int32_t>(seed % 3), .num_blocks = 14}, seed);
    ASSERT_NO_FATAL_FAILURE(run.Run());
    EXPECT_GT(run.num_preemptions(), 0);
  }
}

TEST(SchedulerRandomLoadTest, PrefixCachingOffAndTheSmallestBudgetsChangeNoToken) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    SCOPED_TRACE(seed);
    RandomLoad run({.num_ranks = 2,
                    .num_blocks = 12,
                    .max_tokens_per_step = 1 + static_cast<int32_t>(seed % 2),
                    .max_sequences_per_step = 1 + static_cast<int32_t>(seed / 2),
                    .prefix_caching = false,
                    .num_requests = 40},
                   seed);
    ASSERT_NO_FATAL_FAILURE(run.Run());
    EXPECT_EQ(run.num_cache_hits(), 0);
  }
}

}  // namespace
}  // namespace moed
