#include "kernels/cuda/packed_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"
#include "kernels/cuda/packed_layout.cuh"
#include "kernels/cuda/packed_rows.h"

namespace moed::kernels::cuda {
namespace {

constexpr uint64_t kMaxBytes = uint64_t{1} << 46;
constexpr uint64_t kAlignment = 256;
constexpr int64_t kChunkBytes = int64_t{8} << 20;  // of sources at a time

/// The bytes of a packed matrix: data, then scales.
struct PackedBytes {
  uint64_t scales_at = 0;
  uint64_t total = 0;
};

absl::StatusOr<PackedBytes> BytesOf(const PackedShape& shape, size_t num_rows) {
  const auto num_matrices = static_cast<uint64_t>(shape.num_matrices);
  const auto groups = static_cast<uint64_t>(NumGroups(shape.encoding, shape.cols));
  const auto padded =
      static_cast<uint64_t>(PaddedRows(static_cast<int64_t>(num_rows) / shape.num_matrices));
  const auto all = CheckedMul(num_matrices * padded, groups);
  const auto data =
      all ? CheckedMul(*all, static_cast<uint64_t>(GroupBytes(shape.encoding))) : std::nullopt;
  if (!data || *data > kMaxBytes || num_rows > INT32_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("loading weights: ", num_rows, " rows of ",
                                                   shape.cols, " elements are too many"));
  }
  PackedBytes bytes;
  bytes.scales_at = (*data + kAlignment - 1) / kAlignment * kAlignment;
  bytes.total = bytes.scales_at + *all / static_cast<uint64_t>(GroupsPerScale(shape.encoding)) *
                                      static_cast<uint64_t>(ScaleBytes(shape.encoding));
  return bytes;
}

/// What the kernels that pack can read: fp8 as it is, and for integers bf16, or f32 for any other.
DType SourceType(Encoding encoding, std::span<const SourceRow> rows) {
  if (encoding == Encoding::kF8E4M3) return DType::kF8E4M3;
  const bool all_bf16 = std::all_of(rows.begin(), rows.end(), [](const SourceRow& row) {
    return row.data == nullptr || row.dtype == DType::kBF16;
  });
  return all_bf16 ? DType::kBF16 : DType::kF32;
}

/// Some rows side by side, as a kernel reads them, and of fp8 their scales behind them.
class SourceChunk {
 public:
  SourceChunk(DType type, int64_t cols) : type_(type), cols_(cols) {}

  int64_t row_bytes() const { return cols_ * static_cast<int64_t>(SizeBytes(type_)); }
  int64_t scales_per_row() const {
    return type_ == DType::kF8E4M3 ? (cols_ + kScaleBlock - 1) / kScaleBlock : 0;
  }
  int64_t scales_at(int64_t num_rows) const { return (num_rows * row_bytes() + 255) / 256 * 256; }
  int64_t bytes(int64_t num_rows) const {
    return scales_at(num_rows) + num_rows * scales_per_row() * int64_t{sizeof(float)};
  }

  const char* Fill(std::span<const SourceRow> rows) {
    const auto num_rows = static_cast<int64_t>(rows.size());
    bytes_.assign(static_cast<size_t>(bytes(num_rows)), 0);
    const auto scale_bytes = static_cast<size_t>(scales_per_row()) * sizeof(float);
    char* scales = bytes_.data() + scales_at(num_rows);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].data == nullptr) continue;
      char* to = bytes_.data() + static_cast<int64_t>(i) * row_bytes();
      if (rows[i].dtype == type_) {
        std::memcpy(to, rows[i].data, static_cast<size_t>(row_bytes()));
      } else {
        ReadFloats(rows[i], 0, cols_, reinterpret_cast<float*>(to));
      }
      if (scale_bytes > 0) std::memcpy(scales + i * scale_bytes, rows[i].scales, scale_bytes);
    }
    return bytes_.data();
  }

 private:
  const DType type_;
  const int64_t cols_;
  std::vector<char> bytes_;
};

/// Copies and packs all rows into the memory of `view`.
absl::Status PackAll(const WeightDevice& device, const DeviceMatrix& view,
                     std::span<const SourceRow> rows) {
  const DType source = SourceType(view.encoding, rows);
  SourceChunk chunk(source, view.cols);
  const auto num_rows = static_cast<int64_t>(rows.size());
  const int64_t at_once =
      std::clamp<int64_t>(kChunkBytes / std::max<int64_t>(chunk.row_bytes(), 1), 1, num_rows);
  MOED_ASSIGN_OR_RETURN(const Buffer staging, device.backend.Allocate(chunk.bytes(at_once)));
  for (int64_t first = 0; first < num_rows; first += at_once) {
    const int64_t count = std::min(at_once, num_rows - first);
    const char* bytes =
        chunk.Fill(rows.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    device.backend.CopyToDevice(staging.data(), bytes, chunk.bytes(count));
    if (device.context.failed()) break;
    const PackRowsParams params = {
        .source = source,
        .rows = staging.data(),
        .scales = reinterpret_cast<const float*>(staging.as<char>() + chunk.scales_at(count)),
        .first_row = first,
        .num_rows = count,
        .to = view};
    device.context.Keep(PackRows(device.context.Begin(), params), "packing weights");
  }
  return device.backend.Synchronize();
}

}  // namespace

Encoding EncodingOf(std::span<const SourceRow> rows, WeightFormat format) {
  switch (format) {
    case WeightFormat::kInt8:
      return Encoding::kInt8;
    case WeightFormat::kInt4:
      return Encoding::kInt4;
    case WeightFormat::kStored:
      break;
  }
  const bool all_fp8 = std::all_of(rows.begin(), rows.end(), [](const SourceRow& row) {
    return row.data == nullptr || row.dtype == DType::kF8E4M3;
  });
  return all_fp8 ? Encoding::kF8E4M3 : Encoding::kBf16;
}

absl::StatusOr<LoadedMatrix> LoadPackedRows(const WeightDevice& device, const PackedShape& shape,
                                            std::span<const SourceRow> rows) {
  MOED_ASSIGN_OR_RETURN(const PackedBytes bytes, BytesOf(shape, rows.size()));
  MOED_ASSIGN_OR_RETURN(Buffer memory, device.backend.Allocate(static_cast<int64_t>(bytes.total)));
  const DeviceMatrix view = {.data = memory.as<uint16_t>(),
                             .num_matrices = shape.num_matrices,
                             .rows = static_cast<int64_t>(rows.size()) / shape.num_matrices,
                             .cols = shape.cols,
                             .encoding = shape.encoding,
                             .scales = memory.as<char>() + bytes.scales_at};
  MOED_RETURN_IF_ERROR(PackAll(device, view, rows));
  return LoadedMatrix{.view = view, .memory = std::move(memory)};
}

}  // namespace moed::kernels::cuda
