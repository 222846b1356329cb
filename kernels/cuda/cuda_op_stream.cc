#include "kernels/cuda/cuda_op_stream.h"

namespace moed::kernels::cuda {

CudaOpStream::~CudaOpStream() {
  context_.Begin();
  for (cudaEvent_t event : events_) {
    if (event != nullptr) cudaEventDestroy(event);
  }
}

uint64_t CudaOpStream::Mark() {
  const uint64_t mark = ++last_mark_;
  cudaEvent_t& event = events_[mark % kNumEvents];
  const cudaStream_t stream = context_.Begin().stream;
  if (event == nullptr) {
    context_.Keep(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  }
  if (!context_.failed()) context_.Keep(cudaEventRecord(event, stream), "recording an event");
  return mark;
}

absl::StatusOr<bool> CudaOpStream::HasPassed(uint64_t mark) {
  if (context_.failed()) return context_.status();
  context_.Begin();
  const cudaError_t error = cudaEventQuery(events_[mark % kNumEvents]);
  if (error == cudaErrorNotReady) return false;
  context_.Keep(error, "waiting for the ops");
  if (context_.failed()) return context_.status();
  return true;
}

}  // namespace moed::kernels::cuda
