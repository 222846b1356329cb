#include "kernels/host_weights.h"

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "kernels/float_convert.h"

namespace moed::kernels {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;

}  // namespace

SourceRow RowOf(const HostMatrix& m, int64_t row) {
  const int64_t stride = m.row_stride == 0 ? m.cols : m.row_stride;
  SourceRow out = {.data = static_cast<const char*>(m.data) +
                           row * stride * static_cast<int64_t>(SizeBytes(m.dtype)),
                   .dtype = m.dtype};
  if (m.dtype == DType::kF8E4M3) {
    const int64_t blocks = (m.cols + kScaleBlock - 1) / kScaleBlock;
    out.scales = m.scales.data + (m.scales.rows_before + row) / kScaleBlock * blocks;
  }
  return out;
}

void ReadFloats(const SourceRow& row, int64_t begin, int64_t count, float* out) {
  const char* data = row.data + begin * static_cast<int64_t>(SizeBytes(row.dtype));
  if (row.dtype == DType::kF32) {
    std::memcpy(out, data, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    if (row.dtype == DType::kF8E4M3) {
      out[i] = F8E4M3ToFloat(static_cast<uint8_t>(data[i])) * row.scales[(begin + i) / kScaleBlock];
      continue;
    }
    uint16_t bits;
    std::memcpy(&bits, data + 2 * i, sizeof(bits));
    out[i] = row.dtype == DType::kBF16 ? Bf16ToFloat(bits) : F16ToFloat(bits);
  }
}

absl::Status CheckSource(const HostMatrix& m, int64_t rows, int64_t cols, const char* what) {
  if (m.data == nullptr || m.rows < 1 || m.cols < 1 || m.rows > kMaxDimension ||
      m.cols > kMaxDimension || (m.row_stride != 0 && m.row_stride < m.cols)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "loading ", what,
        ": expected a matrix of at least 1 x 1 and at most 2^31 rows and columns, got ", m.rows,
        " x ", m.cols, " with row stride ", m.row_stride));
  }
  if (m.dtype == DType::kI32) {
    return absl::InvalidArgumentError(absl::StrCat("loading ", what,
                                                   ": expected f32, bf16, f16 or f8_e4m3, got ",
                                                   std::string(Name(m.dtype))));
  }
  if (m.dtype == DType::kF8E4M3 && (m.scales.data == nullptr || m.scales.rows_before < 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("loading ", what, ": expected f8_e4m3 to have scales, got none"));
  }
  if (m.rows == rows && m.cols == cols) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("loading ", what, ": expected [", rows, ", ", cols,
                                                 "], got [", m.rows, ", ", m.cols, "]"));
}

absl::Status CheckSources(std::span<const HostMatrix> stacked) {
  if (stacked.empty()) return absl::InvalidArgumentError("loading a matrix: no sources");
  for (const HostMatrix& m : stacked) {
    MOED_RETURN_IF_ERROR(CheckSource(m, m.rows, stacked[0].cols, "a stacked matrix"));
  }
  return absl::OkStatus();
}

absl::Status CheckSources(std::span<const ExpertSource> experts) {
  if (experts.empty()) return absl::InvalidArgumentError("loading experts: there are none");
  const int64_t intermediate = experts[0].gate.rows, hidden = experts[0].gate.cols;
  for (const ExpertSource& e : experts) {
    MOED_RETURN_IF_ERROR(CheckSource(e.gate, intermediate, hidden, "an expert's gate"));
    MOED_RETURN_IF_ERROR(CheckSource(e.up, intermediate, hidden, "an expert's up"));
    MOED_RETURN_IF_ERROR(CheckSource(e.down, hidden, intermediate, "an expert's down"));
  }
  return absl::OkStatus();
}

}  // namespace moed::kernels
