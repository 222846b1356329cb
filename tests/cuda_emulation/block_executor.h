#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "cuda_emulation/builtins.h"
#include "cuda_emulation/threads.h"
#include "tests/cuda_emulation/fiber.h"

namespace cuda_emulation {

struct GridShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
};

/// Runs a grid block by block, the threads of a block as fibers.
///
/// Owned by the emulated device; one grid at a time. Within a block warps take turns; a thread runs
/// until a barrier, a warp operation or its end. Misuse (a barrier that not all threads reach, a
/// warp operation whose lanes disagree) ends the process with a message that says where each side
/// stands.
class BlockExecutor {
 public:
  static constexpr int kMaxThreads = 1024;

  BlockExecutor();
  BlockExecutor(const BlockExecutor&) = delete;
  BlockExecutor& operator=(const BlockExecutor&) = delete;
  ~BlockExecutor();

  /// Calls kernel() once per thread of the grid.
  void Run(const GridShape& shape, const std::function<void()>& kernel);

  // What the running thread may ask for; see cuda_emulation/threads.h.
  int Barrier(int predicate, Site site);
  void CallWarp(const WarpCall& call);
  void* shared_memory() { return shared_.get(); }
  bool InSharedMemory(const void* address, int64_t bytes) const;
  void CopyAsync(void* shared, const void* global, int bytes);
  void CommitCopies();
  void WaitForCopies(int pending);

 private:
  enum class State : uint8_t { kReady, kInWarpCall, kAtBarrier, kDone };
  struct PendingCopy {
    void* shared;
    const void* global;
    int bytes;
    int group;
  };
  struct Thread {
    std::unique_ptr<Fiber> fiber;
    uint3 index = {};
    State state = State::kDone;
    const WarpCall* call = nullptr;
    Site barrier_site = {};
    int predicate = 0;
    int copy_group = 0;  // of the next copy
    std::vector<PendingCopy> copies;
  };

  static void RunThread(void* executor);
  void RunBlock();
  bool RunWarp(int first_thread);
  void ReleaseBarrier();
  [[noreturn]] void ReportStuck() const;
  void Suspend(State state);

  FiberStacks stacks_;
  std::vector<Thread> threads_;  // [kMaxThreads]
  int num_threads_ = 0;          // of the block
  int current_ = 0;              // the thread that runs
  int barrier_count_ = 0;        // result of the last barrier
  size_t shared_bytes_ = 0;
  std::unique_ptr<char, void (*)(void*)> shared_;
  const std::function<void()>* kernel_ = nullptr;
};

}  // namespace cuda_emulation
