#include "engine/weights/file_tensors.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "config/base/check.h"

namespace moed {
namespace {

constexpr size_t kMaxNamed = 5;

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

bool IsIgnored(const std::string& name, const ModelTensors& tensors) {
  return absl::EndsWith(name, "rotary_emb.inv_freq") ||
         (!tensors.lm_head && name == "lm_head.weight");
}

std::string ScaleName(const std::string& tensor) { return tensor + "_scale_inv"; }

int64_t NumBlocks(int64_t size) { return (size + kernels::kScaleBlock - 1) / kernels::kScaleBlock; }

// Of the scales of a tensor of matrices.
std::vector<int64_t> ScaleShape(std::vector<int64_t> shape) {
  for (size_t i = shape.size() - 2; i < shape.size(); ++i) shape[i] = NumBlocks(shape[i]);
  return shape;
}

bool MayBeFp8(WeightRole role) {
  return role == WeightRole::kInput || role == WeightRole::kOutput || role == WeightRole::kHead;
}

// A tensor as it should be.
struct Expected {
  std::vector<int64_t> shape;
  bool may_be_fp8 = false;
};

bool IsExpectedType(const TensorInfo& info, const Expected& expected) {
  if (!info.dtype) return false;
  switch (*info.dtype) {
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
      return true;
    case DType::kF8E4M3:
      return expected.may_be_fp8;
    case DType::kI32:
      break;
  }
  return false;
}

std::map<std::string, Expected> ExpectedTensors(const ModelTensors& tensors,
                                                const Checkpoint& checkpoint) {
  std::map<std::string, Expected> all;
  ForEachMatrix(tensors, [&](const MatrixRef& ref) {
    const bool may_be_fp8 = tensors.fp8_weights && MayBeFp8(ref.role);
    all[ref.tensor] = {ref.tensor_shape, may_be_fp8};
    const Checkpoint::Tensor* tensor = checkpoint.Find(ref.tensor);
    if (!may_be_fp8 || tensor == nullptr || tensor->info->dtype != DType::kF8E4M3) return;
    all[ScaleName(ref.tensor)] = {ScaleShape(ref.tensor_shape), false};
  });
  return all;
}

// "3 missing tensors: a [4], b [2, 2], ..." or nothing.
std::string Summary(absl::string_view what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  const auto end = names.begin() + std::min(names.size(), kMaxNamed);
  return absl::StrCat("; ", names.size(), " ", what, ": ", absl::StrJoin(names.begin(), end, ", "),
                      names.size() > kMaxNamed ? ", ..." : "");
}

}  // namespace

absl::Status CheckTensors(const ModelTensors& tensors, const Checkpoint& checkpoint) {
  const std::map<std::string, Expected> expected = ExpectedTensors(tensors, checkpoint);
  std::vector<std::string> missing, wrong, surplus;
  for (const auto& [name, right] : expected) {
    const Checkpoint::Tensor* tensor = checkpoint.Find(name);
    if (tensor == nullptr) {
      missing.push_back(absl::StrCat(name, " ", ShapeText(right.shape)));
    } else if (tensor->info->shape != right.shape) {
      wrong.push_back(absl::StrCat(name, " is ", ShapeText(tensor->info->shape), ", expected ",
                                   ShapeText(right.shape)));
    } else if (!IsExpectedType(*tensor->info, right)) {
      wrong.push_back(absl::StrCat(name, " is ", tensor->info->dtype_name, ", expected ",
                                   right.may_be_fp8 ? "F8_E4M3, " : "", "F32, BF16 or F16"));
    }
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (!expected.contains(name) && !IsIgnored(name, tensors)) {
      surplus.push_back(absl::StrCat(name, " ", ShapeText(tensor.info->shape)));
    }
  }
  if (missing.empty() && wrong.empty() && surplus.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the weights are not what config.json asks for", Summary("missing", missing),
                   Summary("of wrong shape or type", wrong), Summary("surplus", surplus)));
}

kernels::HostMatrix FileTensors::Read(const MatrixRef& ref) {
  const Checkpoint::Tensor* tensor = checkpoint_.Find(ref.tensor);
  MOED_CHECK(tensor != nullptr && tensor->info->dtype.has_value());
  const DType dtype = *tensor->info->dtype;
  const size_t row_bytes = ref.cols * moed::SizeBytes(dtype);
  const std::span<const std::byte> part =
      tensor->file->Data(*tensor->info).subspan(ref.row_begin * row_bytes, ref.rows * row_bytes);
  tensor->file->Prefetch(part);
  in_use_.emplace_back(tensor->file, part);
  kernels::HostMatrix matrix = {
      .data = part.data(), .dtype = dtype, .rows = ref.rows, .cols = ref.cols};
  if (dtype == DType::kF8E4M3) matrix.scales = ReadScales(ref);
  return matrix;
}

// The rows are those of one of the tensor's matrices, which has blocks of its own.
kernels::BlockScales FileTensors::ReadScales(const MatrixRef& ref) {
  const Checkpoint::Tensor* tensor = checkpoint_.Find(ScaleName(ref.tensor));
  MOED_CHECK(tensor != nullptr && tensor->info->dtype.has_value());
  const int64_t matrix_rows = ref.tensor_shape[ref.tensor_shape.size() - 2];
  const int64_t first_row = ref.row_begin % matrix_rows;
  MOED_CHECK(first_row + ref.rows <= matrix_rows);
  const int64_t rows_before = first_row % kernels::kScaleBlock;
  const int64_t first_block =
      ref.row_begin / matrix_rows * NumBlocks(matrix_rows) + first_row / kernels::kScaleBlock;
  const int64_t blocks_per_row = NumBlocks(ref.cols);
  const size_t element_bytes = moed::SizeBytes(*tensor->info->dtype);
  scales_in_use_.push_back(
      ToFloat({.data = tensor->file->Data(*tensor->info)
                           .subspan(first_block * blocks_per_row * element_bytes)
                           .data(),
               .dtype = *tensor->info->dtype,
               .rows = NumBlocks(rows_before + ref.rows),
               .cols = blocks_per_row}));
  return {.data = scales_in_use_.back().data(), .rows_before = rows_before};
}

int64_t FileTensors::SizeBytes(const MatrixRef& ref) const {
  const Checkpoint::Tensor* tensor = checkpoint_.Find(ref.tensor);
  MOED_CHECK(tensor != nullptr && tensor->info->dtype.has_value());
  return ref.num_elements() * static_cast<int64_t>(moed::SizeBytes(*tensor->info->dtype));
}

void FileTensors::Release() {
  for (const auto& [file, part] : in_use_) file->Release(part);
  in_use_.clear();
  scales_in_use_.clear();
}

}  // namespace moed
