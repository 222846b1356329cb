#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace moed::kernels {

struct BackendOptions {
  std::string device = "cpu";             // "cpu" or "cuda:N"
  DType activation_dtype = DType::kBF16;  // kF32 is the oracle: stored weights, f32 activations
  int num_threads = 1;
  std::vector<int> cpus;        // pin thread i to cpus[i % size]; empty = do not pin
  std::string instruction_set;  // "" = the best of this machine; else force one (tests)
  Numerics numerics = Numerics::kInvariant;  // kFast: only "cuda:N"
};

/// INVALID_ARGUMENT for an unknown device, an instruction set that this machine lacks, or numerics
/// that the device has not; NOT_FOUND where fast numerics find no cuBLAS.
absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options);

/// Bytes of memory that a device has free. INVALID_ARGUMENT for "cpu", whose memory is the host's,
/// and for a device that this build has not.
absl::StatusOr<int64_t> FreeDeviceBytes(const std::string& device);

/// Whether that backend keeps block-scaled fp8 matrices so; otherwise they become what kStored
/// says.
bool KeepsFp8(const BackendOptions& options);

}  // namespace moed::kernels
