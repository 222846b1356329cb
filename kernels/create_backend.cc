#include "kernels/create_backend.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"

namespace moed::kernels {

absl::StatusOr<std::unique_ptr<Backend>> CreateBackend(const BackendOptions& options) {
  if (options.device == "cpu") return cpu::CreateCpuBackend(options);
  return absl::InvalidArgumentError(absl::StrCat("creating a backend: this build has no device \"",
                                                 options.device, "\", expected \"cpu\""));
}

}  // namespace moed::kernels
