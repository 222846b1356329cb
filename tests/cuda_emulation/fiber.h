#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_emulation {

/// A function on a stack of its own that can stop in the middle and go on later.
///
/// Owned by the block executor; all calls come from the OS thread that runs the kernel. A fiber
/// can be started again once its function has returned.
class Fiber {
 public:
  using Function = void (*)(void* argument);

  Fiber(void* stack, size_t stack_bytes) : stack_(stack), stack_bytes_(stack_bytes) {}
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Prepares a call of function(argument); Resume() begins it.
  void Start(Function function, void* argument);
  /// Runs the function until it calls Suspend() or returns.
  void Resume();
  /// From inside the function: goes back to the caller of Resume().
  void Suspend();
  bool done() const { return done_; }

 private:
  friend void RunFiber(Fiber& fiber);

  void* const stack_;
  const size_t stack_bytes_;
  Function function_ = nullptr;
  void* argument_ = nullptr;
  bool done_ = true;
  void* fiber_context_ = nullptr;   // where the fiber stopped
  void* caller_context_ = nullptr;  // where Resume() stopped
  // What AddressSanitizer has to be told about the two stacks.
  void* fiber_fake_stack_ = nullptr;
  void* caller_fake_stack_ = nullptr;
  const void* caller_stack_ = nullptr;
  size_t caller_stack_bytes_ = 0;
};

/// Memory for stacks, each above a page that may not be touched: an overflow ends in SIGSEGV.
class FiberStacks {
 public:
  explicit FiberStacks(int count);
  FiberStacks(const FiberStacks&) = delete;
  FiberStacks& operator=(const FiberStacks&) = delete;
  ~FiberStacks();

  void* stack(int i) const;
  size_t stack_bytes() const;

 private:
  char* memory_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace cuda_emulation
