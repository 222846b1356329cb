#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <atomic>
#include <thread>
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

TEST(ThreadPoolTest, EveryThreadBeginsWithARangeOfItsOwn) {
  const int threads = 4;
  const auto pool = MakePool(threads);
  std::vector<int> first(threads, -1);
  std::atomic<int> arrived{0};
  // Nobody goes on before all have begun.
  pool->ParallelFor(threads * 10, [&](int64_t task, int thread) {
    if (first[thread] >= 0) return;
    first[thread] = static_cast<int>(task);
    arrived.fetch_add(1);
    while (arrived.load() < threads) sched_yield();
  });
  EXPECT_THAT(first, testing::ElementsAre(0, 10, 20, 30));
}

TEST(ThreadPoolTest, AThreadTakesItsOwnTasksInOrderAndThenFromTheEndsOfOthers) {
  const int threads = 3;
  const int64_t tasks_each = 40;
  const auto pool = MakePool(threads);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::vector<int64_t>> taken(threads);
    pool->ParallelFor(threads * tasks_each, [&](int64_t task, int thread) {
      taken[thread].push_back(task);
      for (int i = 0; i < task % 7; ++i) sched_yield();  // some last longer
    });
    for (int thread = 0; thread < threads; ++thread) {
      bool stealing = false;
      for (size_t i = 0; i < taken[thread].size(); ++i) {
        const int64_t owner = taken[thread][i] / tasks_each;
        ASSERT_FALSE(stealing && owner == thread);
        stealing = stealing || owner != thread;
        if (i == 0 || taken[thread][i - 1] / tasks_each != owner) continue;
        ASSERT_EQ(taken[thread][i] > taken[thread][i - 1], owner == thread);
      }
    }
  }
}

TEST(ThreadPoolTest, TheTasksOfAThreadThatIsHeldUpAreDoneByTheOthers) {
  for (int64_t held_up : {0, 7, 19}) {
    const auto pool = MakePool(2);
    std::vector<int> runs(20, 0), by(20, -1);
    std::atomic<int> others_done{0};
    pool->ParallelFor(20, [&](int64_t task, int thread) {
      ++runs[task], by[task] = thread;
      if (task != held_up) {
        others_done.fetch_add(1);
        return;
      }
      while (others_done.load() < 19) sched_yield();  // for ever, were they left to this thread
    });
    EXPECT_THAT(runs, testing::Each(1));
    // What it had not begun, and that is all behind the task in the order of its range.
    const int64_t begin = held_up / 10 * 10;
    for (int64_t task = held_up + 1; by[held_up] == held_up / 10 && task < begin + 10; ++task) {
      EXPECT_NE(by[task], by[held_up]) << task;
    }
  }
}

TEST(ThreadPoolTest, AThreadThatComesLateFindsNothingOfALoopThatIsOver) {
  const auto pool = MakePool(16);  // more than there are cores: most wake up too late
  for (int64_t round = 0; round < 500; ++round) {
    // On the stack, and gone when the loop is over: asan and tsan watch.
    const int64_t num_tasks = round % 6;
    std::vector<int64_t> marks(num_tasks, -1);
    pool->ParallelFor(num_tasks, [&marks, round](int64_t task, int) {
      EXPECT_EQ(marks[task], -1);
      marks[task] = round;
    });
    EXPECT_THAT(marks, testing::Each(round));
  }
}

TEST(ThreadPoolTest, ALoneTaskStaysWithTheCaller) {
  const auto pool = MakePool(4);
  const std::thread::id caller = std::this_thread::get_id();
  for (int i = 0; i < 100; ++i) {
    pool->ParallelFor(1, [&](int64_t task, int thread) {
      EXPECT_EQ(task, 0);
      EXPECT_EQ(thread, 0);
      EXPECT_EQ(std::this_thread::get_id(), caller);
    });
  }
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
