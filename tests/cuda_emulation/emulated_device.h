#pragma once

#include <cstddef>
#include <functional>

#include "cuda_runtime.h"

/// What tests may ask of the emulated device, beside the CUDA calls of cuda_runtime.h.
namespace cuda_emulation {

/// The device has this much memory from now on (1 GiB at first).
void SetMemoryLimit(size_t bytes);

/// All calls report `error` from the next one on, as after a kernel that failed; cudaSuccess ends
/// that.
void SetStickyError(cudaError_t error);

/// Puts work on a stream that waits for something outside of this process: what follows on the
/// stream waits until `poll` returns true. It is called, from the thread that runs the stream,
/// whenever that gets there; it must not block.
void EnqueuePolled(cudaStream_t stream, std::function<bool()> poll);

/// Makes every asynchronous copy, or every allocation of pinned memory, fail with this error until
/// it is called with cudaSuccess.
void FailCopies(cudaError_t error);
void FailPinnedMemory(cudaError_t error);

/// Kernels that have run so far.
int NumKernelsRun();

/// Graphs that have been launched so far.
int NumGraphLaunches();

}  // namespace cuda_emulation
