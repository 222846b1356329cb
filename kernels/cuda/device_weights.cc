#include "kernels/cuda/device_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"
#include "kernels/cuda/packed_weights.h"
#include "kernels/float_convert.h"
#include "kernels/host_weights.h"

namespace moed::kernels::cuda {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 46;

/// out[0..cols) = the row, rounded to bf16.
void ConvertRow(const SourceRow& row, int64_t cols, uint16_t* out) {
  if (row.data == nullptr) return;
  if (row.dtype == DType::kBF16) {
    std::memcpy(out, row.data, cols * sizeof(uint16_t));
    return;
  }
  constexpr int64_t kPiece = 256;
  float piece[kPiece];
  for (int64_t begin = 0; begin < cols; begin += kPiece) {
    const int64_t count = std::min(kPiece, cols - begin);
    ReadFloats(row, begin, count, piece);
    for (int64_t i = 0; i < count; ++i) out[begin + i] = FloatToBf16(piece[i]);
  }
}

/// Converts rows into pinned memory and copies them to the device, one part while the next is read;
/// does not wait for the last. `rows` holds those of all matrices.
absl::StatusOr<LoadedMatrix> LoadRows(const WeightDevice& device, int64_t num_matrices,
                                      const std::vector<SourceRow>& rows, int64_t cols) {
  const int64_t stride = (cols + kKTile - 1) / kKTile * kKTile;
  const size_t row_bytes = static_cast<size_t>(stride) * sizeof(uint16_t);
  const auto bytes = CheckedMul(rows.size(), row_bytes);
  if (!bytes || *bytes > kMaxBytes || row_bytes > PinnedCopy::kPieceBytes) {
    return absl::InvalidArgumentError(absl::StrCat("loading weights: ", rows.size(), " rows of ",
                                                   row_bytes, " bytes are too many"));
  }
  MOED_ASSIGN_OR_RETURN(Buffer memory, device.backend.Allocate(static_cast<int64_t>(*bytes)));
  device.context.CopyToDevice(
      memory.data(), rows.size(), row_bytes, [&](char* to, size_t first, size_t count) {
        std::memset(to, 0, count * row_bytes);
        for (size_t i = 0; i < count; ++i) {
          ConvertRow(rows[first + i], cols, reinterpret_cast<uint16_t*>(to + i * row_bytes));
        }
      });
  MOED_RETURN_IF_ERROR(device.context.status());
  const DeviceMatrix view = {.data = memory.as<uint16_t>(),
                             .num_matrices = num_matrices,
                             .rows = static_cast<int64_t>(rows.size()) / num_matrices,
                             .cols = cols,
                             .row_stride = stride};
  return LoadedMatrix{.view = view, .memory = std::move(memory)};
}

/// Rows as `format` and their own types ask.
absl::StatusOr<LoadedMatrix> LoadAs(WeightFormat format, const WeightDevice& device,
                                    int64_t num_matrices, const std::vector<SourceRow>& rows,
                                    int64_t cols) {
  const Encoding encoding = EncodingOf(rows, format);
  if (encoding == Encoding::kBf16) return LoadRows(device, num_matrices, rows, cols);
  return LoadPackedRows(device, {encoding, num_matrices, cols}, rows);
}

/// 8 rows of gate, 8 of up, and so on; zeros beyond the last.
void AppendGateUp(const ExpertSource& expert, std::vector<SourceRow>& rows) {
  for (int64_t group = 0; group < expert.gate.rows; group += 8) {
    for (const HostMatrix* m : {&expert.gate, &expert.up}) {
      for (int64_t row = group; row < group + 8; ++row) {
        rows.push_back(row < m->rows ? RowOf(*m, row) : SourceRow{});
      }
    }
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinearWeights>> LoadLinear(const WeightDevice& device,
                                                          std::span<const HostMatrix> stacked,
                                                          std::span<const float> bias,
                                                          WeightFormat format) {
  MOED_RETURN_IF_ERROR(CheckSources(stacked));
  std::vector<SourceRow> rows;
  for (const HostMatrix& m : stacked) {
    for (int64_t row = 0; row < m.rows; ++row) rows.push_back(RowOf(m, row));
  }
  if (!bias.empty() && bias.size() != rows.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("loading a bias: expected ", rows.size(), " values, got ", bias.size()));
  }
  Buffer device_bias;
  if (!bias.empty()) {
    MOED_ASSIGN_OR_RETURN(device_bias,
                          device.backend.Allocate(static_cast<int64_t>(bias.size_bytes())));
    device.backend.CopyToDevice(device_bias.data(), bias.data(), device_bias.size_bytes());
  }
  MOED_ASSIGN_OR_RETURN(LoadedMatrix matrix, LoadAs(format, device, 1, rows, stacked[0].cols));
  return std::make_unique<CudaLinear>(std::move(matrix), std::move(device_bias));
}

absl::StatusOr<std::unique_ptr<ExpertWeights>> LoadExperts(const WeightDevice& device,
                                                           std::span<const ExpertSource> experts,
                                                           WeightFormat format) {
  MOED_RETURN_IF_ERROR(CheckSources(experts));
  const int64_t num_experts = static_cast<int64_t>(experts.size());
  const int64_t hidden = experts[0].gate.cols, intermediate = experts[0].gate.rows;
  std::vector<SourceRow> gate_up, down;
  for (const ExpertSource& e : experts) {
    AppendGateUp(e, gate_up);
    for (int64_t row = 0; row < hidden; ++row) down.push_back(RowOf(e.down, row));
  }
  MOED_ASSIGN_OR_RETURN(LoadedMatrix gate_up_matrix,
                        LoadAs(format, device, num_experts, gate_up, hidden));
  MOED_ASSIGN_OR_RETURN(LoadedMatrix down_matrix,
                        LoadAs(format, device, num_experts, down, intermediate));
  return std::make_unique<CudaExperts>(intermediate, std::move(gate_up_matrix),
                                       std::move(down_matrix));
}

}  // namespace moed::kernels::cuda
