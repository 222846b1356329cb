#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

/// What the benchmarks on a GPU have in common.
namespace moed::gpu_bench {

/// What the GPU does at best, measured in the same run.
struct DeviceCeilings {
  double copy_bytes_per_s = 0;  // device to device; each byte is read and written, so counts twice
  double bf16_ops_per_s = 0;    // a large cuBLAS product; 0 where there is no cuBLAS
};
absl::StatusOr<DeviceCeilings> MeasureDevice(int64_t num_bytes);

/// Of a product of so many rows, columns and elements along K. UNIMPLEMENTED without cuBLAS.
absl::StatusOr<double> MeasureCublas(int64_t size);

/// What a measurement is judged by.
enum class Bound : uint8_t {
  kBytes,       // share of the copy rate
  kArithmetic,  // share of the cuBLAS rate
};

struct Measurement {
  std::string name;  // "gate_up Qwen3-30B-A3B rows 8"
  double seconds = 0;
  double bytes = 0;  // that must be read or written
  double operations = 0;
  Bound bound = Bound::kBytes;
  double goal = 0;  // least share; 0 = none
};

/// Prints a table as it grows, and appends the same rows to a file.
class Table {
 public:
  /// `path` is "" for no file.
  static absl::StatusOr<Table> Open(const std::string& path, const DeviceCeilings& ceilings);
  void Add(const Measurement& measurement) const;

 private:
  Table(std::string path, const DeviceCeilings& ceilings)
      : path_(std::move(path)), ceilings_(ceilings) {}

  std::string path_;
  DeviceCeilings ceilings_;
};

/// Sizes and repetitions: those of real models, or so small that the emulated device can do them.
struct Scale {
  bool tiny = false;
  int64_t Of(int64_t real, int64_t small) const { return tiny ? small : real; }
};

/// Bits of bf16 values around +-1, and memory that holds such.
std::vector<uint16_t> RandomBf16(int64_t n);
absl::StatusOr<kernels::Buffer> RandomRows(kernels::Backend& backend, int64_t n);
absl::StatusOr<kernels::Buffer> UploadInts(kernels::Backend& backend,
                                           const std::vector<int32_t>& values);

struct BenchParams {
  kernels::Backend& backend;
  const Table& table;
  Scale scale;
  int64_t next_recording = int64_t{1} << 20;  // of numbers of rows that no engine has
};
/// Seconds of one call of `ops`, which must be a recordable step (kernels::StepParams): launched
/// from a recording again and again, for some tenths of a second.
absl::StatusOr<double> TimeStep(BenchParams& params, kernels::StepParams step,
                                const std::function<void()>& ops);

absl::Status BenchGemm(BenchParams& params);
absl::Status BenchAttention(BenchParams& params);
absl::Status BenchLayer(BenchParams& params);

struct StepBenchParams {
  const Table& table;
  const DeviceCeilings& ceilings;
  std::string config_json;  // file
  Scale scale;
};
/// Whole steps of an engine with dummy weights.
absl::Status BenchSteps(const StepBenchParams& params);

}  // namespace moed::gpu_bench
