#include "tests/gpu/bench_table.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"

namespace moed::gpu_bench {
namespace {

constexpr char kHeader[] =
    "| what | us | GB/s | of copy | TFLOP/s | of cuBLAS | goal |\n|---|---|---|---|---|---|---|\n";

std::string Percent(double share) {
  return share > 0 ? absl::StrFormat("%.0f %%", 100 * share) : "-";
}

absl::Status Append(const std::string& path, const std::string& text) {
  std::fputs(text.c_str(), stdout);
  std::fflush(stdout);
  if (path.empty()) return absl::OkStatus();
  std::FILE* file = std::fopen(path.c_str(), "a");
  if (file == nullptr) return absl::InternalError(absl::StrCat("cannot append to ", path));
  const bool written = std::fputs(text.c_str(), file) >= 0;
  if (std::fclose(file) == 0 && written) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("cannot write to ", path));
}

}  // namespace

absl::StatusOr<Table> Table::Open(const std::string& path, const DeviceCeilings& ceilings) {
  MOED_RETURN_IF_ERROR(Append(
      path,
      absl::StrFormat("\nCopy %.0f GB/s, cuBLAS bf16 %.0f TFLOP/s.\n\n%s",
                      ceilings.copy_bytes_per_s / 1e9, ceilings.bf16_ops_per_s / 1e12, kHeader)));
  return Table(path, ceilings);
}

void Table::Add(const Measurement& m) const {
  const double bytes_per_s = m.bytes / m.seconds, ops_per_s = m.operations / m.seconds;
  const double of_copy = bytes_per_s / ceilings_.copy_bytes_per_s;
  const double of_cublas = ceilings_.bf16_ops_per_s > 0 ? ops_per_s / ceilings_.bf16_ops_per_s : 0;
  const double share = m.bound == Bound::kBytes ? of_copy : of_cublas;
  std::string goal = "-";
  if (m.goal > 0) {
    goal = absl::StrFormat("%.0f %% of %s: %s", 100 * m.goal,
                           m.bound == Bound::kBytes ? "copy" : "cuBLAS",
                           share >= m.goal ? "met" : "missed");
  }
  const absl::Status status =
      Append(path_, absl::StrFormat("| %s | %.1f | %.0f | %s | %.1f | %s | %s |\n", m.name,
                                    1e6 * m.seconds, bytes_per_s / 1e9, Percent(of_copy),
                                    ops_per_s / 1e12, Percent(of_cublas), goal));
  if (!status.ok()) std::fprintf(stderr, "gpu_bench: %s\n", status.ToString().c_str());
}

absl::StatusOr<double> TimeStep(BenchParams& params, kernels::StepParams step,
                                const std::function<void()>& ops) {
  step.recording_id = params.next_recording++;
  const auto run = [&](int64_t times) -> absl::StatusOr<double> {
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < times; ++i) {
      MOED_RETURN_IF_ERROR(params.backend.RunStep(step, [&ops] {
        ops();
        return absl::OkStatus();
      }));
    }
    MOED_RETURN_IF_ERROR(params.backend.Synchronize());
    const auto seconds = std::chrono::steady_clock::now() - begin;
    return std::chrono::duration<double>(seconds).count() / static_cast<double>(times);
  };
  MOED_RETURN_IF_ERROR(run(3).status());  // as it comes, recorded, repeated
  if (params.scale.tiny) return run(1);
  MOED_ASSIGN_OR_RETURN(const double about, run(3));
  return run(std::clamp<int64_t>(static_cast<int64_t>(0.3 / about), 3, 2000));
}

std::vector<uint16_t> RandomBf16(int64_t n) {
  std::mt19937 random(1);
  std::vector<uint16_t> bits(n);
  for (uint16_t& b : bits) b = static_cast<uint16_t>(0x3f00u | (random() & 0x80ffu));
  return bits;
}

absl::StatusOr<kernels::Buffer> RandomRows(kernels::Backend& backend, int64_t n) {
  const std::vector<uint16_t> values = RandomBf16(n);
  MOED_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(2 * n));
  backend.CopyToDevice(buffer.data(), values.data(), 2 * n);
  return buffer;
}

absl::StatusOr<kernels::Buffer> UploadInts(kernels::Backend& backend,
                                           const std::vector<int32_t>& values) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(int32_t));
  MOED_ASSIGN_OR_RETURN(kernels::Buffer buffer, backend.Allocate(bytes));
  backend.CopyToDevice(buffer.data(), values.data(), bytes);
  return buffer;
}

}  // namespace moed::gpu_bench
