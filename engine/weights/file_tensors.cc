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

// "3 missing tensors: a [4], b [2, 2], ..." or nothing.
std::string Summary(absl::string_view what, const std::vector<std::string>& names) {
  if (names.empty()) return "";
  const auto end = names.begin() + std::min(names.size(), kMaxNamed);
  return absl::StrCat("; ", names.size(), " ", what, ": ", absl::StrJoin(names.begin(), end, ", "),
                      names.size() > kMaxNamed ? ", ..." : "");
}

}  // namespace

absl::Status CheckTensors(const ModelTensors& tensors, const Checkpoint& checkpoint) {
  std::map<std::string, std::vector<int64_t>> expected;
  ForEachMatrix(tensors, [&](const MatrixRef& ref) { expected[ref.tensor] = ref.tensor_shape; });
  std::vector<std::string> missing, wrong, surplus;
  for (const auto& [name, shape] : expected) {
    const Checkpoint::Tensor* tensor = checkpoint.Find(name);
    if (tensor == nullptr) {
      missing.push_back(absl::StrCat(name, " ", ShapeText(shape)));
    } else if (tensor->info->shape != shape) {
      wrong.push_back(absl::StrCat(name, " is ", ShapeText(tensor->info->shape), ", expected ",
                                   ShapeText(shape)));
    } else if (!tensor->info->dtype || *tensor->info->dtype == DType::kI32) {
      wrong.push_back(
          absl::StrCat(name, " is ", tensor->info->dtype_name, ", expected F32, BF16 or F16"));
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
  return {.data = part.data(), .dtype = dtype, .rows = ref.rows, .cols = ref.cols};
}

int64_t FileTensors::SizeBytes(const MatrixRef& ref) const {
  const Checkpoint::Tensor* tensor = checkpoint_.Find(ref.tensor);
  MOED_CHECK(tensor != nullptr && tensor->info->dtype.has_value());
  return ref.num_elements() * static_cast<int64_t>(moed::SizeBytes(*tensor->info->dtype));
}

void FileTensors::Release() {
  for (const auto& [file, part] : in_use_) file->Release(part);
  in_use_.clear();
}

}  // namespace moed
