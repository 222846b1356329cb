#include "engine/weights/format_rule.h"

#include "config/base/checked_math.h"

namespace moed {
namespace {

using kernels::WeightFormat;

constexpr uint64_t kGroup = 32;      // neighbours along K that share a scale
constexpr uint64_t kScaleBytes = 2;  // bf16

bool IsVector(WeightRole role) { return role == WeightRole::kNorm || role == WeightRole::kBias; }

uint64_t RowBytes(uint64_t cols, WeightFormat format, DType stored_dtype) {
  if (format == WeightFormat::kStored && stored_dtype == DType::kF8E4M3) {
    const uint64_t block = kernels::kScaleBlock;
    return cols + (cols + block - 1) / block * sizeof(float);
  }
  const uint64_t num_groups = (cols + kGroup - 1) / kGroup;
  switch (format) {
    case WeightFormat::kInt8:
      return num_groups * (kGroup + kScaleBytes);
    case WeightFormat::kInt4:
      return num_groups * (kGroup / 2 + kScaleBytes);
    case WeightFormat::kStored:
      break;
  }
  return cols * SizeBytes(stored_dtype);
}

}  // namespace

WeightFormat FormatRule::Of(WeightRole role) const {
  const WeightFormat head =
      asked == WeightFormat::kStored ? WeightFormat::kStored : WeightFormat::kInt8;
  switch (role) {
    case WeightRole::kInput:
    case WeightRole::kOutput:
      return asked;
    case WeightRole::kHead:
      return head;
    case WeightRole::kEmbedding:
      return tied_embedding ? head : WeightFormat::kStored;
    case WeightRole::kRouter:
    case WeightRole::kNorm:
    case WeightRole::kBias:
      break;
  }
  return WeightFormat::kStored;
}

std::optional<uint64_t> FormatRule::Bytes(const MatrixRef& ref, DType stored_dtype) const {
  DType dtype = IsVector(ref.role) ? DType::kF32 : stored_dtype;
  if (dtype == DType::kF8E4M3 && !IsProjection(ref.role)) dtype = DType::kBF16;
  return CheckedMul(static_cast<uint64_t>(ref.rows),
                    RowBytes(static_cast<uint64_t>(ref.cols), Of(ref.role), dtype));
}

}  // namespace moed
