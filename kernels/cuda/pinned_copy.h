#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

#include "absl/functional/function_ref.h"

namespace moed::kernels::cuda {

/// Copies to the device by way of two pieces of pinned memory: while one is on its way, the other
/// is filled. So reading (from a mapped file, say) and copying overlap, and nobody waits for the
/// end of a copy.
///
/// Owned by CudaContext and used from its thread. The memory is allocated by the first copy.
class PinnedCopy {
 public:
  static constexpr size_t kPieceBytes = size_t{8} << 20;

  PinnedCopy() = default;
  PinnedCopy(const PinnedCopy&) = delete;
  PinnedCopy& operator=(const PinnedCopy&) = delete;
  ~PinnedCopy();

  struct Target {
    cudaStream_t stream = nullptr;
    void* device = nullptr;
    size_t num_units = 0;
    size_t unit_bytes = 1;  // at most kPieceBytes
  };
  /// Calls fill(to, first, count) for units [first, first + count), each once and in order, and
  /// copies them in the order of the stream. Returns when all have been filled in. After an error
  /// nothing of the target can be relied on.
  cudaError_t Copy(const Target& target,
                   absl::FunctionRef<void(char* to, size_t first, size_t count)> fill);

 private:
  struct Piece {
    char* memory = nullptr;
    cudaEvent_t copied = nullptr;  // recorded when the piece was left
    bool is_on_its_way = false;
  };

  cudaError_t Allocate();
  cudaError_t NextPiece(cudaStream_t stream);

  std::array<Piece, 2> pieces_;
  size_t current_ = 0;
  size_t used_ = 0;  // of the current piece
};

}  // namespace moed::kernels::cuda
