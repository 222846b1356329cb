#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

/// What a machine does at best with some threads and nothing else to do.
struct MachineCeilings {
  int32_t num_threads = 0;
  double read_bytes_per_s = 0;  // streaming from memory, by the best of several methods
  std::string read_method;      // that method
  double copy_bytes_per_s = 0;  // memcpy: bytes copied, each of them read and written
  // Operations on registers a second, a multiplication and an addition being two; 0 where the CPU
  // has no instruction for it.
  double f32_ops_per_s = 0;
  double bf16_ops_per_s = 0;
  double int8_ops_per_s = 0;
};

/// Measures for about two seconds on as many threads as there are `cpus`, each pinned to one; or,
/// if there are none, on `num_threads` that are not. RESOURCE_EXHAUSTED when there is no memory to
/// stream through.
absl::StatusOr<MachineCeilings> MeasureCeilings(int32_t num_threads, const std::vector<int>& cpus);

}  // namespace moed
