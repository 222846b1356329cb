#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulation/block_executor.h"
#include "tests/cuda_emulation/device_memory.h"

/// What the files that make up the emulated runtime share.

using Work = std::function<void()>;

struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};
struct CUstream_st {
  std::deque<Work> queue;
  std::shared_ptr<CUgraph_st> capture;  // shared by the streams that take part in a capture
};
struct CUevent_st {
  cudaStream_t stream = nullptr;        // where it was recorded last
  std::shared_ptr<bool> passed;         // whether the stream has come to that place
  std::shared_ptr<CUgraph_st> capture;  // recorded in a capture
};

namespace cuda_emulation {

/// All state of the one device. CUDA's interface is global, so this is too.
struct Device {
  std::recursive_mutex mutex;
  DeviceMemory memory;
  BlockExecutor executor;
  std::map<uintptr_t, size_t> pinned;
  std::set<cudaStream_t> streams;
  CUstream_st* running = nullptr;  // the stream whose work is being done
  CUstream_st default_stream;
  std::map<const void*, int> max_dynamic_shared;
  cudaError_t last_error = cudaSuccess;
  cudaError_t sticky_error = cudaSuccess;
  cudaError_t copy_error = cudaSuccess;
  cudaError_t pinned_memory_error = cudaSuccess;
  int kernels_run = 0;
  int graph_launches = 0;
};

Device& TheDevice();

constexpr int kSharedOptin = 163 << 10;  // sm_80 has the least

/// One API call: holds the lock, and remembers the error.
class Call {
 public:
  Call() : lock_(TheDevice().mutex) {}
  cudaError_t Return(cudaError_t error) {
    Device& d = TheDevice();
    if (d.sticky_error != cudaSuccess) error = d.sticky_error;
    if (error != cudaSuccess && error != cudaErrorNotReady) d.last_error = error;
    return error;
  }
  Device& device() { return TheDevice(); }

 private:
  std::lock_guard<std::recursive_mutex> lock_;
};

CUstream_st& Resolve(cudaStream_t stream);

/// Does the oldest piece of a stream's work; false when there is none.
bool RunNext(CUstream_st& stream);
void Drain(CUstream_st& stream);
void DrainAll();

/// Puts work on a stream, or into the graph that it captures.
void Enqueue(cudaStream_t stream, Work work);

/// Runs `work` with device memory open to it.
void Touch(const Work& work);

}  // namespace cuda_emulation
