#include "cuda_runtime.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "tests/cuda_emulation/device_state.h"

using namespace cuda_emulation;

namespace {

/// All are the one device: processes that stand for ranks each use a number of their own.
constexpr int kNumDevices = 8;

bool IsDevice(int device) { return device >= 0 && device < kNumDevices; }

bool IsPinned(const void* pointer, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto& pinned = TheDevice().pinned;
  const auto next = pinned.upper_bound(address);
  if (next == pinned.begin()) return false;
  const auto& [start, size] = *std::prev(next);
  return address + bytes <= start + size;
}

bool IsCapturing() {
  const auto& streams = TheDevice().streams;
  return std::any_of(streams.begin(), streams.end(),
                     [](cudaStream_t s) { return s->capture != nullptr; });
}

bool SidesAreValid(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const DeviceMemory& memory = TheDevice().memory;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  return memory.Contains(to, bytes) == to_device && memory.Contains(from, bytes) == from_device;
}

}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle:
      return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorIllegalAddress:
      return "cudaErrorIllegalAddress";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
  }
  return "unrecognized error code";
}

const char* cudaGetErrorString(cudaError_t error) { return cudaGetErrorName(error); }

cudaError_t cudaPeekAtLastError() {
  Call call;
  return call.device().last_error;
}

cudaError_t cudaGetLastError() {
  Call call;
  const cudaError_t error = call.device().last_error;
  call.device().last_error = call.device().sticky_error;
  return error;
}

// ---- device ----

cudaError_t cudaGetDeviceCount(int* count) {
  Call call;
  *count = kNumDevices;
  return call.Return(cudaSuccess);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  Call call;
  if (!IsDevice(device)) return call.Return(cudaErrorInvalidDevice);
  *properties = {};
  std::snprintf(properties->name, sizeof(properties->name), "emulated");
  properties->totalGlobalMem = call.device().memory.limit_bytes();
  properties->sharedMemPerBlockOptin = kSharedOptin;
  properties->sharedMemPerMultiprocessor = kSharedOptin + 1024;
  properties->major = 8;
  properties->minor = 0;
  properties->multiProcessorCount = 2;
  return call.Return(cudaSuccess);
}

cudaError_t cudaSetDevice(int device) {
  Call call;
  return call.Return(IsDevice(device) ? cudaSuccess : cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceSynchronize() {
  Call call;
  if (IsCapturing()) return call.Return(cudaErrorStreamCaptureUnsupported);
  DrainAll();
  return call.Return(cudaSuccess);
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Call call;
  const DeviceMemory& memory = call.device().memory;
  *total_bytes = memory.limit_bytes();
  *free_bytes = memory.limit_bytes() - std::min(memory.limit_bytes(), memory.used_bytes());
  return call.Return(cudaSuccess);
}

// ---- memory ----

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  Call call;
  if (IsCapturing()) return call.Return(cudaErrorStreamCaptureUnsupported);
  *pointer = bytes == 0 ? nullptr : call.device().memory.Allocate(bytes);
  const bool failed = bytes > 0 && *pointer == nullptr;
  return call.Return(failed ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaFree(void* pointer) {
  Call call;
  if (IsCapturing()) return call.Return(cudaErrorStreamCaptureUnsupported);
  DrainAll();
  if (pointer == nullptr) return call.Return(cudaSuccess);
  call.device().memory.CheckEnds("something");
  return call.Return(call.device().memory.Free(pointer) ? cudaSuccess : cudaErrorInvalidValue);
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  Call call;
  const cudaError_t wanted = call.device().pinned_memory_error;
  if (wanted != cudaSuccess) return call.Return(wanted);
  if (posix_memalign(pointer, 256, bytes) != 0) return call.Return(cudaErrorMemoryAllocation);
  call.device().pinned[reinterpret_cast<uintptr_t>(*pointer)] = bytes;
  return call.Return(cudaSuccess);
}

cudaError_t cudaFreeHost(void* pointer) {
  Call call;
  DrainAll();
  if (pointer == nullptr) return call.Return(cudaSuccess);
  if (call.device().pinned.erase(reinterpret_cast<uintptr_t>(pointer)) == 0) {
    return call.Return(cudaErrorInvalidValue);
  }
  std::free(pointer);
  return call.Return(cudaSuccess);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  Call call;
  if (IsCapturing()) return call.Return(cudaErrorStreamCaptureUnsupported);
  DrainAll();
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  DrainAll();
  return call.Return(error);
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  Call call;
  if (bytes == 0) return call.Return(cudaSuccess);
  const cudaError_t wanted = call.device().copy_error;
  if (wanted != cudaSuccess) return call.Return(wanted);
  if (!SidesAreValid(to, from, bytes, kind)) return call.Return(cudaErrorInvalidValue);
  const auto copy = [to, bytes](const void* source) {
    Touch([&] { std::memcpy(to, source, bytes); });
  };
  const bool pageable = kind == cudaMemcpyHostToDevice && !IsPinned(from, bytes);
  if (pageable && Resolve(stream).capture == nullptr) {  // the host may overwrite it at once
    const char* bytes_of = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(bytes_of, bytes_of + bytes);
    Enqueue(stream, [copy, staged] { copy(staged->data()); });
    return call.Return(cudaSuccess);
  }
  Enqueue(stream, [copy, from] { copy(from); });
  if (kind == cudaMemcpyDeviceToHost && !IsPinned(to, bytes)) {  // returns when it is done
    if (Resolve(stream).capture != nullptr) return call.Return(cudaErrorStreamCaptureUnsupported);
    Drain(Resolve(stream));
  }
  return call.Return(cudaSuccess);
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  Call call;
  if (bytes == 0) return call.Return(cudaSuccess);
  if (!call.device().memory.Contains(to, bytes)) return call.Return(cudaErrorInvalidValue);
  Enqueue(stream, [=] { Touch([&] { std::memset(to, value, bytes); }); });
  return call.Return(cudaSuccess);
}

// ---- streams and events ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  Call call;
  *stream = new CUstream_st;
  call.device().streams.insert(*stream);
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  Call call;
  if (call.device().streams.count(stream) == 0) return call.Return(cudaErrorInvalidResourceHandle);
  Drain(*stream);
  call.device().streams.erase(stream);
  delete stream;
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  Call call;
  if (Resolve(stream).capture != nullptr) return call.Return(cudaErrorStreamCaptureUnsupported);
  Drain(Resolve(stream));
  return call.Return(cudaSuccess);
}

/// Each query does a piece of the work, so that polling comes to an end.
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  Call call;
  return call.Return(RunNext(Resolve(stream)) ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  Call call;
  if (event->capture != nullptr) {  // joins the capture: what follows comes after the event
    Resolve(stream).capture = event->capture;
    return call.Return(cudaSuccess);
  }
  if (event->passed == nullptr) return call.Return(cudaSuccess);
  Enqueue(stream, [passed = event->passed, other = event->stream] {
    while (!*passed && RunNext(Resolve(other))) {
    }
  });
  return call.Return(cudaSuccess);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  Call call;
  *event = new CUevent_st;
  return call.Return(cudaSuccess);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  Call call;
  delete event;
  return call.Return(cudaSuccess);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  Call call;
  event->stream = stream;
  event->capture = Resolve(stream).capture;
  event->passed = std::make_shared<bool>(false);
  Enqueue(stream, [passed = event->passed] { *passed = true; });
  return call.Return(cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  Call call;
  while (event->passed != nullptr && !*event->passed && RunNext(Resolve(event->stream))) {
  }
  return call.Return(cudaSuccess);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  Call call;
  if (event->passed == nullptr || *event->passed) return call.Return(cudaSuccess);
  RunNext(Resolve(event->stream));
  return call.Return(cudaErrorNotReady);
}

// ---- graphs: recorded launches ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  Call call;
  if (stream == nullptr || stream->capture != nullptr) {
    return call.Return(cudaErrorStreamCaptureUnsupported);
  }
  stream->capture = std::make_shared<CUgraph_st>();
  return call.Return(cudaSuccess);
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  Call call;
  if (stream == nullptr || stream->capture == nullptr) return call.Return(cudaErrorInvalidValue);
  const std::shared_ptr<CUgraph_st> capture = stream->capture;
  for (cudaStream_t s : call.device().streams) {
    if (s->capture == capture) s->capture = nullptr;
  }
  *graph = new CUgraph_st(*capture);
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  Call call;
  *exec = new CUgraphExec_st{graph->work};
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  Call call;
  ++call.device().graph_launches;
  for (const Work& work : exec->work) Enqueue(stream, work);
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  Call call;
  delete graph;
  return call.Return(cudaSuccess);
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  Call call;
  delete exec;
  return call.Return(cudaSuccess);
}
