#include "tests/cuda_emulation/fiber.h"

#include <sys/mman.h>

#include "config/base/check.h"

#if defined(__SANITIZE_ADDRESS__)
#define EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATION_ASAN 1
#endif
#endif
#ifdef EMULATION_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifndef __x86_64__
#include <ucontext.h>
#endif

namespace cuda_emulation {
namespace {

#ifdef EMULATION_ASAN
constexpr size_t kStackBytes = 256 << 10;  // redzones make frames several times as large
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr size_t kGuardBytes = 4096;

void BeginSwitch([[maybe_unused]] void** fake_stack, [[maybe_unused]] const void* bottom,
                 [[maybe_unused]] size_t bytes) {
#ifdef EMULATION_ASAN
  __sanitizer_start_switch_fiber(fake_stack, bottom, bytes);
#endif
}

void EndSwitch([[maybe_unused]] void* fake_stack, [[maybe_unused]] const void** old_bottom,
               [[maybe_unused]] size_t* old_bytes) {
#ifdef EMULATION_ASAN
  __sanitizer_finish_switch_fiber(fake_stack, old_bottom, old_bytes);
#endif
}

}  // namespace

// Saves the context of the caller in *from and goes on at `to`. swapcontext would make two system
// calls for the signal mask each time, and a warp operation takes 32 switches.
extern "C" void CudaEmulationSwitch(void** from, void* to);
extern "C" void CudaEmulationEnter();

#ifdef __x86_64__
// The callee-saved registers of the System V ABI; a new fiber finds its Fiber* in r12.
asm(R"(
.text
.p2align 4
.globl CudaEmulationSwitch
.type CudaEmulationSwitch, @function
CudaEmulationSwitch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size CudaEmulationSwitch, . - CudaEmulationSwitch
.globl CudaEmulationEnter
.type CudaEmulationEnter, @function
CudaEmulationEnter:
  movq %r12, %rdi
  call CudaEmulationRun@PLT
  ud2
.size CudaEmulationEnter, . - CudaEmulationEnter
)");
#else
extern "C" void CudaEmulationSwitch(void** from, void* to) {
  ucontext_t here;
  *from = &here;
  swapcontext(&here, static_cast<ucontext_t*>(to));
}
#endif

void RunFiber(Fiber& fiber) {
  EndSwitch(nullptr, &fiber.caller_stack_, &fiber.caller_stack_bytes_);
  fiber.function_(fiber.argument_);
  fiber.done_ = true;
  BeginSwitch(nullptr, fiber.caller_stack_, fiber.caller_stack_bytes_);
  CudaEmulationSwitch(&fiber.fiber_context_, fiber.caller_context_);
}

extern "C" void CudaEmulationRun(Fiber* fiber) { RunFiber(*fiber); }

void Fiber::Start(Function function, void* argument) {
  MOED_CHECK(done_);
  function_ = function;
  argument_ = argument;
  done_ = false;
#ifdef __x86_64__
  // What CudaEmulationSwitch pops: r15 r14 r13 r12 rbx rbp and the return address. Two words
  // remain, so that the stack is aligned to 16 bytes before CudaEmulationEnter calls.
  void** top = reinterpret_cast<void**>(static_cast<char*>(stack_) + stack_bytes_) - 9;
  for (int i = 0; i < 9; ++i) top[i] = nullptr;
  top[3] = this;
  top[6] = reinterpret_cast<void*>(&CudaEmulationEnter);
  fiber_context_ = top;
#else
  static_assert(sizeof(ucontext_t) < kStackBytes / 4);
  auto* context = new (stack_) ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = static_cast<char*>(stack_) + sizeof(ucontext_t);
  context->uc_stack.ss_size = stack_bytes_ - sizeof(ucontext_t);
  const auto address = reinterpret_cast<uintptr_t>(this);
  void (*enter)(unsigned, unsigned) = [](unsigned high, unsigned low) {
    RunFiber(*reinterpret_cast<Fiber*>((uintptr_t{high} << 32) | low));
  };
  makecontext(context, reinterpret_cast<void (*)()>(enter), 2,
              static_cast<unsigned>(static_cast<uint64_t>(address) >> 32),
              static_cast<unsigned>(address));
  fiber_context_ = context;
#endif
}

void Fiber::Resume() {
  MOED_CHECK(!done_);
  BeginSwitch(&caller_fake_stack_, stack_, stack_bytes_);
  CudaEmulationSwitch(&caller_context_, fiber_context_);
  EndSwitch(caller_fake_stack_, nullptr, nullptr);
}

void Fiber::Suspend() {
  BeginSwitch(&fiber_fake_stack_, caller_stack_, caller_stack_bytes_);
  CudaEmulationSwitch(&fiber_context_, caller_context_);
  EndSwitch(fiber_fake_stack_, &caller_stack_, &caller_stack_bytes_);
}

FiberStacks::FiberStacks(int count) : bytes_(count * (kStackBytes + kGuardBytes)) {
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  MOED_CHECK(memory != MAP_FAILED);
  memory_ = static_cast<char*>(memory);
  for (int i = 0; i < count; ++i) {
    MOED_CHECK(mprotect(memory_ + i * (kStackBytes + kGuardBytes), kGuardBytes, PROT_NONE) == 0);
  }
}

FiberStacks::~FiberStacks() { munmap(memory_, bytes_); }

void* FiberStacks::stack(int i) const {
  return memory_ + i * (kStackBytes + kGuardBytes) + kGuardBytes;
}
size_t FiberStacks::stack_bytes() const { return kStackBytes; }

}  // namespace cuda_emulation
