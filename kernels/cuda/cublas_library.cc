#include "kernels/cuda/cublas_library.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"

namespace moed::kernels::cuda {
namespace {

constexpr const char* kNames[] = {"libcublas.so.13", "libcublas.so.12"};

/// The symbol, or null and its name in `missing`.
template <typename Function>
void Find(void* library, const char* symbol, Function*& function, std::string& missing) {
  function = reinterpret_cast<Function*>(::dlsym(library, symbol));
  if (function == nullptr) absl::StrAppend(&missing, " ", symbol);
}

}  // namespace

absl::StatusOr<CublasFunctions> LoadCublas() {
  void* library = nullptr;
  for (const char* name : kNames) {
    if (library == nullptr) library = ::dlopen(name, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    const char* error = ::dlerror();
    return absl::NotFoundError(absl::StrCat("loading cuBLAS, which fast numerics need: tried ",
                                            kNames[0], " and ", kNames[1], ": ",
                                            error == nullptr ? "" : error));
  }
  CublasFunctions functions;
  std::string missing;
  Find(library, "cublasCreate_v2", functions.create, missing);
  Find(library, "cublasDestroy_v2", functions.destroy, missing);
  Find(library, "cublasSetStream_v2", functions.set_stream, missing);
  Find(library, "cublasSetWorkspace_v2", functions.set_workspace, missing);
  Find(library, "cublasGemmEx", functions.gemm_ex, missing);
  if (missing.empty()) return functions;
  return absl::NotFoundError(absl::StrCat("loading cuBLAS: it has no", missing));
}

}  // namespace moed::kernels::cuda
