#include "tests/gpu/bench_table.h"

/// Where the emulated device stands in for a GPU there is no cuBLAS.
namespace moed::gpu_bench {

absl::StatusOr<double> MeasureCublas(int64_t) {
  return absl::UnimplementedError("built without cuBLAS");
}

}  // namespace moed::gpu_bench
