#include "kernels/create_backend.h"

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"
#ifdef MOED_WITH_CUDA
#include "kernels/cuda/cuda_backend.h"
#endif

namespace moed::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cpu") return cpu::CreateCpuBackend(options);
#ifdef MOED_WITH_CUDA
  if (absl::StartsWith(options.device, "cuda:")) return cuda::CreateCudaBackend(options);
  const char* expected = "\"cpu\" or \"cuda:N\"";
#else
  const char* expected = "\"cpu\" (it was built without CUDA: MOED_WITH_CUDA=OFF)";
#endif
  return absl::InvalidArgumentError(absl::StrCat("creating a backend: this build has no device \"",
                                                 options.device, "\", expected ", expected));
}

absl::StatusOr<int64_t> FreeDeviceBytes(const std::string& device) {
#ifdef MOED_WITH_CUDA
  if (absl::StartsWith(device, "cuda:")) return cuda::FreeDeviceBytes(device);
#endif
  return absl::InvalidArgumentError(absl::StrCat(
      "asking for free memory: this build has no device \"", device, "\" with memory of its own"));
}

bool KeepsFp8(const BackendOptions& options) { return absl::StartsWith(options.device, "cuda"); }

}  // namespace moed::kernels
