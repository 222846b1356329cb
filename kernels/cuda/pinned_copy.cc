#include "kernels/cuda/pinned_copy.h"

#include <algorithm>

namespace moed::kernels::cuda {

PinnedCopy::~PinnedCopy() {
  for (Piece& piece : pieces_) {
    if (piece.copied != nullptr) cudaEventDestroy(piece.copied);
    cudaFreeHost(piece.memory);
  }
}

cudaError_t PinnedCopy::Allocate() {
  for (Piece& piece : pieces_) {
    if (piece.memory == nullptr) {
      const cudaError_t error =
          cudaMallocHost(reinterpret_cast<void**>(&piece.memory), kPieceBytes);
      if (error != cudaSuccess) return error;
    }
    if (piece.copied == nullptr) {
      const cudaError_t error = cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming);
      if (error != cudaSuccess) return error;
    }
  }
  return cudaSuccess;
}

/// Leaves the current piece and waits until the other one may be overwritten.
cudaError_t PinnedCopy::NextPiece(cudaStream_t stream) {
  Piece& left = pieces_[current_];
  const cudaError_t error = cudaEventRecord(left.copied, stream);
  if (error != cudaSuccess) return error;
  left.is_on_its_way = true;
  current_ = 1 - current_;
  used_ = 0;
  Piece& next = pieces_[current_];
  if (!next.is_on_its_way) return cudaSuccess;
  next.is_on_its_way = false;
  return cudaEventSynchronize(next.copied);
}

cudaError_t PinnedCopy::Copy(const Target& target,
                             absl::FunctionRef<void(char* to, size_t first, size_t count)> fill) {
  cudaError_t error = Allocate();
  for (size_t first = 0; error == cudaSuccess && first < target.num_units;) {
    size_t count = std::min(target.num_units - first, (kPieceBytes - used_) / target.unit_bytes);
    if (count == 0) {
      error = NextPiece(target.stream);
      continue;
    }
    char* const from = pieces_[current_].memory + used_;
    fill(from, first, count);
    const size_t bytes = count * target.unit_bytes;
    error = cudaMemcpyAsync(static_cast<char*>(target.device) + first * target.unit_bytes, from,
                            bytes, cudaMemcpyHostToDevice, target.stream);
    used_ = std::min(kPieceBytes, (used_ + bytes + 255) / 256 * 256);
    first += count;
  }
  return error;
}

}  // namespace moed::kernels::cuda
