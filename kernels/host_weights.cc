#include "kernels/host_weights.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed::kernels {
namespace {

constexpr int64_t kMaxDimension = int64_t{1} << 31;

}  // namespace

SourceRow RowOf(const HostMatrix& m, int64_t row) {
  const int64_t stride = m.row_stride == 0 ? m.cols : m.row_stride;
  return {
      static_cast<const char*>(m.data) + row * stride * static_cast<int64_t>(SizeBytes(m.dtype)),
      m.dtype};
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
    return absl::InvalidArgumentError(absl::StrCat(
        "loading ", what, ": expected f32, bf16 or f16, got ", std::string(Name(m.dtype))));
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
