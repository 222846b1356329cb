#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed::kernels::cpu {
namespace {

std::unique_ptr<ThreadPool> MakePool(int num_threads, std::vector<int> cpus = {}) {
  auto pool = ThreadPool::Create(num_threads, std::move(cpus));
  EXPECT_TRUE(pool.ok()) << pool.status();
  return *std::move(pool);
}

int FirstAllowedCpu() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  int cpu = 0;
  while (!CPU_ISSET(cpu, &set)) ++cpu;
  return cpu;
}

TEST(ThreadPoolTest, EveryTaskRunsOnceAndItsWritesAreSeen) {
  for (int threads : {1, 2, 3, 8}) {
    const auto pool = MakePool(threads);
    EXPECT_EQ(pool->num_threads(), threads);
    for (int64_t num_tasks : {0, 1, 2, 3, 7, 100, 1000}) {
      std::vector<int> runs(num_tasks, 0);  // not atomic: tsan watches
      pool->ParallelFor(num_tasks, [&](int64_t task, int thread) {
        EXPECT_GE(thread, 0);
        EXPECT_LT(thread, threads);
        ++runs[task];
      });
      EXPECT_THAT(runs, testing::Each(1));
    }
  }
}

TEST(ThreadPoolTest, LoopsFollowEachOtherWithoutMixingUp) {
  const auto pool = MakePool(3);
  std::vector<int64_t> values(17, 0);
  for (int64_t round = 0; round < 3000; ++round) {
    pool->ParallelFor(17, [&](int64_t task, int) {
      EXPECT_EQ(values[task], round);
      values[task] = round + 1;
    });
  }
}

TEST(ThreadPoolTest, AThreadsScratchIsItsOwn) {
  const auto pool = MakePool(4);
  std::vector<int64_t> sums(4, 0);
  pool->ParallelFor(10000, [&](int64_t task, int thread) { sums[thread] += task; });
  EXPECT_EQ(sums[0] + sums[1] + sums[2] + sums[3], 9999 * 5000);
}

TEST(ThreadPoolTest, TwoTasksCanRunAtTheSameTime) {
  const auto pool = MakePool(2);
  std::atomic<int> arrived{0};
  pool->ParallelFor(2, [&](int64_t, int) {
    arrived.fetch_add(1);
    while (arrived.load() < 2) sched_yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(ThreadPoolTest, APoolThatIsNeverUsedEnds) {
  for (int i = 0; i < 20; ++i) MakePool(4);
}

TEST(ThreadPoolTest, WrongNumbersOfThreadsAndForeignCpusAreRefused) {
  EXPECT_EQ(ThreadPool::Create(0, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ThreadPool::Create(-1, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ThreadPool::Create(5000, {}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ThreadPool::Create(1, {-1}).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ThreadPool::Create(1, {1 << 20}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ThreadPoolTest, ThreadsRunOnTheirCpus) {
  const int cpu = FirstAllowedCpu();
  std::atomic<int> elsewhere{0};
  std::thread caller([&] {  // the caller is pinned as well: not the thread of the other tests
    const auto pool = MakePool(2, {cpu});
    pool->ParallelFor(50, [&](int64_t, int) { elsewhere += sched_getcpu() != cpu; });
  });
  caller.join();
  EXPECT_EQ(elsewhere.load(), 0);
}

}  // namespace
}  // namespace moed::kernels::cpu
