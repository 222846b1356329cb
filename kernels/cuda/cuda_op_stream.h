#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/cuda/cuda_context.h"
#include "kernels/op_stream.h"

namespace moed::kernels::cuda {

/// The stream of one GPU's ops, with events as marks.
///
/// Owned by CudaBackend and used from the thread that calls its ops.
class CudaOpStream final : public OpStream {
 public:
  /// The context must outlive it.
  explicit CudaOpStream(CudaContext& context) : context_(context) {}
  CudaOpStream(const CudaOpStream&) = delete;
  CudaOpStream& operator=(const CudaOpStream&) = delete;
  ~CudaOpStream() override;

  void* handle() const override { return context_.Begin().stream; }
  uint64_t Mark() override;
  absl::StatusOr<bool> HasPassed(uint64_t mark) override;

 private:
  static constexpr uint64_t kNumEvents = 512;

  CudaContext& context_;
  uint64_t last_mark_ = 0;
  std::array<cudaEvent_t, kNumEvents> events_ = {};  // of the last marks; made when first used
};

}  // namespace moed::kernels::cuda
