#include "tests/cuda_emulation/emulated_device.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "tests/cuda_emulation/device_state.h"

namespace cuda_emulation {
namespace {

constexpr int kSharedWithoutAsking = 48 << 10;

void RunKernel(const GridShape& shape, const Work& thread) {
  Device& d = TheDevice();
  Touch([&] { d.executor.Run(shape, thread); });
  ++d.kernels_run;
  char when[100];
  std::snprintf(when, sizeof(when),
                "kernel %d of this process, grid (%u, %u, %u), block (%u, %u, %u),", d.kernels_run,
                shape.grid.x, shape.grid.y, shape.grid.z, shape.block.x, shape.block.y,
                shape.block.z);
  d.memory.CheckEnds(when);
}

/// Asks once; while the answer is no, it stands first in the stream that does it again.
Work Polled(std::function<bool()> poll) {
  return [poll = std::move(poll)] {
    if (!poll()) TheDevice().running->queue.push_front(Polled(poll));
  };
}

}  // namespace

Device& TheDevice() {
  static Device& device = *new Device;  // lives as long as the process
  return device;
}

CUstream_st& Resolve(cudaStream_t stream) {
  return stream == nullptr ? TheDevice().default_stream : *stream;
}

bool RunNext(CUstream_st& stream) {
  if (stream.queue.empty()) return false;
  Work work = std::move(stream.queue.front());
  stream.queue.pop_front();
  CUstream_st* const outer = std::exchange(TheDevice().running, &stream);
  work();
  TheDevice().running = outer;
  return true;
}

void Drain(CUstream_st& stream) {
  while (RunNext(stream)) {
  }
}

void DrainAll() {
  for (cudaStream_t stream : TheDevice().streams) Drain(*stream);
  Drain(TheDevice().default_stream);
}

void Enqueue(cudaStream_t to, Work work) {
  CUstream_st& stream = Resolve(to);
  if (stream.capture != nullptr) {
    stream.capture->work.push_back(std::move(work));
  } else {
    stream.queue.push_back(std::move(work));
  }
}

void Touch(const Work& work) {
  TheDevice().memory.Expose();
  work();
  TheDevice().memory.Hide();
}

void SetMemoryLimit(size_t bytes) {
  Call call;
  call.device().memory.set_limit_bytes(bytes);
}

void SetStickyError(cudaError_t error) {
  Call call;
  call.device().sticky_error = call.device().last_error = error;
}

void EnqueuePolled(cudaStream_t stream, std::function<bool()> poll) {
  Call call;
  Enqueue(stream, Polled(std::move(poll)));
}

void FailCopies(cudaError_t error) {
  Call call;
  call.device().copy_error = error;
}

void FailPinnedMemory(cudaError_t error) {
  Call call;
  call.device().pinned_memory_error = error;
}

int NumGraphLaunches() {
  Call call;
  return call.device().graph_launches;
}

int NumKernelsRun() {
  Call call;
  return call.device().kernels_run;
}

cudaError_t SetMaxDynamicShared(const void* kernel, int bytes) {
  Call call;
  if (bytes < 0 || bytes > kSharedOptin) return call.Return(cudaErrorInvalidValue);
  call.device().max_dynamic_shared[kernel] = bytes;
  return call.Return(cudaSuccess);
}

cudaError_t Launch(const cudaLaunchConfig_t& config, const void* kernel, Work thread) {
  Call call;
  const GridShape shape = {config.gridDim, config.blockDim, config.dynamicSmemBytes};
  const uint64_t threads = uint64_t{shape.block.x} * shape.block.y * shape.block.z;
  if (threads < 1 || threads > BlockExecutor::kMaxThreads || shape.block.z > 64 ||
      shape.grid.x < 1 || shape.grid.x > 0x7fffffffu || shape.grid.y < 1 || shape.grid.y > 65535 ||
      shape.grid.z < 1 || shape.grid.z > 65535) {
    return call.Return(cudaErrorInvalidConfiguration);
  }
  const auto raised = call.device().max_dynamic_shared.find(kernel);
  const int allowed = raised == call.device().max_dynamic_shared.end() ? 0 : raised->second;
  if (shape.shared_bytes > static_cast<size_t>(std::max(allowed, kSharedWithoutAsking))) {
    return call.Return(cudaErrorInvalidValue);
  }
  Enqueue(config.stream, [shape, thread = std::move(thread)] { RunKernel(shape, thread); });
  return call.Return(cudaSuccess);
}

// ---- for the running thread ----

void KernelError(const char* format, ...) {
  std::fprintf(stderr, "cuda emulation: block (%u, %u, %u) thread (%u, %u, %u): ", blockIdx.x,
               blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fprintf(stderr, "\n");
  std::abort();
}

int Barrier(int predicate, Site site) { return TheDevice().executor.Barrier(predicate, site); }
void CallWarp(const WarpCall& call) { TheDevice().executor.CallWarp(call); }

int LaneId() {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  return static_cast<int>(thread % 32);
}

void* DynamicSharedMemory() { return TheDevice().executor.shared_memory(); }

void CheckShared(const void* address, int bytes, const char* what, Site site) {
  if (!TheDevice().executor.InSharedMemory(address, bytes)) {
    KernelError("out of bounds: %s at %s:%d is not in the block's dynamic shared memory", what,
                site.file, site.line);
  }
  if (reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) != 0) {
    KernelError("misaligned: %s at %s:%d is not aligned to %d bytes", what, site.file, site.line,
                bytes);
  }
}

void CopyAsync(void* shared, const void* global, int bytes, Site site) {
  CheckShared(shared, 16, "the target of cp.async", site);
  if (bytes > 0 && !TheDevice().memory.Contains(global, bytes)) {
    KernelError("out of bounds: cp.async at %s:%d reads %d bytes that are not device memory",
                site.file, site.line, bytes);
  }
  if (reinterpret_cast<uintptr_t>(global) % 16 != 0) {
    KernelError("misaligned: the source of cp.async at %s:%d", site.file, site.line);
  }
  TheDevice().executor.CopyAsync(shared, global, bytes);
}

void CommitCopies() { TheDevice().executor.CommitCopies(); }
void WaitForCopies(int pending) { TheDevice().executor.WaitForCopies(pending); }

}  // namespace cuda_emulation
