#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/weight_map.h"
#include "kernels/tensor_view.h"

namespace moed {

/// Where the loader gets a model's matrices from: files, or a generator. Owned by the loader, for
/// the time of loading; one thread.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  /// The matrix in host memory, valid until Release(). It need not be aligned for its dtype.
  virtual kernels::HostMatrix Read(const MatrixRef& ref) = 0;

  /// Bytes that Read(ref) gives.
  virtual int64_t SizeBytes(const MatrixRef& ref) const = 0;

  /// Frees the memory behind everything read so far.
  virtual void Release() = 0;
};

/// The values of a matrix as float32, row-major.
std::vector<float> ToFloat(const kernels::HostMatrix& matrix);

}  // namespace moed
