#pragma once

#include <cstdint>
#include <memory>
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

struct CeilingOptions {
  int32_t num_threads = 1;
  std::vector<int> cpus;                   // [num_threads] of each thread; empty = do not pin
  int64_t num_bytes = int64_t{512} << 20;  // to stream through, at least 32 MiB for each thread
  int64_t num_rounds = int64_t{4} << 20;   // of arithmetic: some 30 ms
  int32_t num_passes = 8;                  // the best counts
};

/// Takes two or three seconds. RESOURCE_EXHAUSTED when there is no memory to stream through.
absl::StatusOr<MachineCeilings> MeasureCeilings(const CeilingOptions& options);

/// Measures the best streaming read again and again beside other work, as fast as that can be done:
/// where neighbours share the machine, it changes from second to second.
///
/// Owned by main, used from its thread, while nothing else computes.
class ReadProbe {
 public:
  /// Memory as CeilingOptions says, of huge pages. Errors as MeasureCeilings.
  static absl::StatusOr<std::unique_ptr<ReadProbe>> Create(const CeilingOptions& options);
  virtual ~ReadProbe() = default;

  /// Bytes per second, of the best of all methods. Takes some hundredths of a second.
  virtual double Measure() = 0;
};

}  // namespace moed
