#include "tests/cuda_emulation/block_executor.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "config/base/check.h"

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

namespace cuda_emulation {
namespace {

constexpr int kWarp = 32;
constexpr uintptr_t kSharedAlignment = 128;

/// Exactly `bytes` at an aligned address, so that AddressSanitizer sees the end.
std::unique_ptr<char, void (*)(void*)> AllocateShared(size_t bytes) {
  void* memory = nullptr;
  MOED_CHECK(posix_memalign(&memory, kSharedAlignment, bytes) == 0);
  return {static_cast<char*>(memory), std::free};
}

}  // namespace

BlockExecutor::BlockExecutor()
    : stacks_(kMaxThreads), threads_(kMaxThreads), shared_(nullptr, std::free) {
  for (int i = 0; i < kMaxThreads; ++i) {
    threads_[i].fiber = std::make_unique<Fiber>(stacks_.stack(i), stacks_.stack_bytes());
  }
}

BlockExecutor::~BlockExecutor() = default;

void BlockExecutor::Run(const GridShape& shape, const std::function<void()>& kernel) {
  kernel_ = &kernel;
  gridDim = shape.grid;
  blockDim = shape.block;
  num_threads_ = static_cast<int>(shape.block.x * shape.block.y * shape.block.z);
  MOED_CHECK(num_threads_ >= 1 && num_threads_ <= kMaxThreads);
  shared_bytes_ = shape.shared_bytes;
  shared_ = AllocateShared(shared_bytes_);
  for (unsigned z = 0; z < shape.grid.z; ++z) {
    for (unsigned y = 0; y < shape.grid.y; ++y) {
      for (unsigned x = 0; x < shape.grid.x; ++x) {
        blockIdx = {x, y, z};
        RunBlock();
      }
    }
  }
  shared_.reset();
  kernel_ = nullptr;
}

void BlockExecutor::RunThread(void* executor) {
  auto* self = static_cast<BlockExecutor*>(executor);
  (*self->kernel_)();
  self->CommitCopies();
  self->WaitForCopies(0);
  self->threads_[self->current_].state = State::kDone;
}

void BlockExecutor::RunBlock() {
  if (shared_bytes_ > 0) std::memset(shared_.get(), 0xff, shared_bytes_);
  for (int i = 0; i < num_threads_; ++i) {
    const unsigned n = static_cast<unsigned>(i);
    Thread& thread = threads_[i];
    thread.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
    thread.state = State::kReady;
    thread.copy_group = 0;
    thread.fiber->Start(&RunThread, this);
  }
  for (;;) {
    bool ran = false;
    for (int first = 0; first < num_threads_; first += kWarp) ran |= RunWarp(first);
    if (ran) continue;
    int done = 0, waiting = 0;
    for (int i = 0; i < num_threads_; ++i) {
      done += threads_[i].state == State::kDone;
      waiting += threads_[i].state == State::kAtBarrier;
    }
    if (done == num_threads_) return;
    if (waiting < num_threads_) ReportStuck();
    ReleaseBarrier();
  }
}

/// Lets the lanes of a warp run until none can. Returns whether any could.
bool BlockExecutor::RunWarp(int first_thread) {
  const int end = std::min(first_thread + kWarp, num_threads_);
  bool ran = false;
  for (bool again = true; again;) {
    again = false;
    for (int i = first_thread; i < end; ++i) {
      if (threads_[i].state != State::kReady) continue;
      current_ = i;
      threadIdx = threads_[i].index;
      threads_[i].fiber->Resume();
      again = ran = true;
    }
  }
  return ran;
}

void BlockExecutor::ReleaseBarrier() {
  const Site site = threads_[0].barrier_site;
  barrier_count_ = 0;
  for (int i = 0; i < num_threads_; ++i) {
    const Site other = threads_[i].barrier_site;
    if (other.line != site.line || std::strcmp(other.file, site.file) != 0) {
      current_ = i;
      threadIdx = threads_[i].index;
      KernelError("divergent barrier: at %s:%d, but thread 0 is at the one at %s:%d", other.file,
                  other.line, site.file, site.line);
    }
    barrier_count_ += threads_[i].predicate != 0;
    threads_[i].state = State::kReady;
  }
}

void BlockExecutor::ReportStuck() const {
  std::fprintf(stderr,
               "cuda emulation: block (%u, %u, %u): divergent barrier: no thread can go on\n",
               blockIdx.x, blockIdx.y, blockIdx.z);
  for (int i = 0; i < num_threads_; ++i) {
    const Thread& t = threads_[i];
    if (t.state == State::kDone) {
      std::fprintf(stderr, "  thread %d has returned\n", i);
    } else if (t.state == State::kAtBarrier) {
      std::fprintf(stderr, "  thread %d waits at the barrier at %s:%d\n", i, t.barrier_site.file,
                   t.barrier_site.line);
    } else {
      std::fprintf(stderr, "  thread %d waits in %s with mask %08x at %s:%d\n", i, t.call->name,
                   t.call->mask, t.call->site.file, t.call->site.line);
    }
  }
  std::abort();
}

void BlockExecutor::Suspend(State state) {
  Thread& thread = threads_[current_];
  thread.state = state;
  thread.fiber->Suspend();
}

int BlockExecutor::Barrier(int predicate, Site site) {
  threads_[current_].barrier_site = site;
  threads_[current_].predicate = predicate;
  Suspend(State::kAtBarrier);
  return barrier_count_;
}

void BlockExecutor::CallWarp(const WarpCall& call) {
  const int lane = current_ % kWarp, first = current_ - lane;
  if ((call.mask >> lane & 1) == 0) {
    KernelError("%s at %s:%d: lane %d is not in its own mask %08x", call.name, call.site.file,
                call.site.line, lane, call.mask);
  }
  void* lanes[kWarp] = {};
  bool complete = true;
  for (int i = 0; i < kWarp; ++i) {
    if ((call.mask >> i & 1) == 0) continue;
    const Thread* t = first + i < num_threads_ ? &threads_[first + i] : nullptr;
    if (t == nullptr || t->state == State::kDone) {
      KernelError("%s at %s:%d: lane %d of mask %08x has returned or never was", call.name,
                  call.site.file, call.site.line, i, call.mask);
    }
    if (i == lane) {
      lanes[i] = call.lane;
    } else if (t->state != State::kInWarpCall) {
      complete = false;  // has still to come
    } else if (t->call->complete != call.complete || t->call->mask != call.mask) {
      KernelError("%s with mask %08x at %s:%d: lane %d is in %s with mask %08x at %s:%d", call.name,
                  call.mask, call.site.file, call.site.line, i, t->call->name, t->call->mask,
                  t->call->site.file, t->call->site.line);
    } else {
      lanes[i] = t->call->lane;
    }
  }
  if (!complete) {
    threads_[current_].call = &call;
    return Suspend(State::kInWarpCall);
  }
  call.complete(lanes);
  for (int i = 0; i < kWarp; ++i) {
    if (lanes[i] != nullptr) threads_[first + i].state = State::kReady;
  }
}

bool BlockExecutor::InSharedMemory(const void* address, int64_t bytes) const {
  const char* at = static_cast<const char*>(address);
  return at >= shared_.get() && at + bytes <= shared_.get() + shared_bytes_;
}

void BlockExecutor::CopyAsync(void* shared, const void* global, int bytes) {
  Thread& thread = threads_[current_];
  std::memset(shared, 0xff, 16);
  thread.copies.push_back({shared, global, bytes, thread.copy_group});
}

void BlockExecutor::CommitCopies() { ++threads_[current_].copy_group; }

void BlockExecutor::WaitForCopies(int pending) {
  Thread& thread = threads_[current_];
  auto& copies = thread.copies;
  size_t arrived = 0;
  for (; arrived < copies.size() && copies[arrived].group < thread.copy_group - pending;
       ++arrived) {
    const PendingCopy& copy = copies[arrived];
    std::memset(copy.shared, 0, 16);
    std::memcpy(copy.shared, copy.global, copy.bytes);
  }
  copies.erase(copies.begin(), copies.begin() + static_cast<int64_t>(arrived));
}

}  // namespace cuda_emulation
