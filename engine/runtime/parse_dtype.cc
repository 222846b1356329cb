#include "engine/runtime/parse_dtype.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace moed {
namespace {

using kernels::WeightFormat;

struct NamedDType {
  std::string_view name;
  EngineDType dtype;
};

constexpr NamedDType kDTypes[] = {{"bf16", {DType::kBF16, WeightFormat::kStored}},
                                  {"f32", {DType::kF32, WeightFormat::kStored}},
                                  {"int8", {DType::kBF16, WeightFormat::kInt8}},
                                  {"int4", {DType::kBF16, WeightFormat::kInt4}}};

}  // namespace

absl::StatusOr<EngineDType> ParseEngineDType(std::string_view text) {
  for (const NamedDType& named : kDTypes) {
    if (named.name == text) return named.dtype;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("dtype is \"", std::string(text), "\", expected bf16, f32, int8 or int4"));
}

std::string_view Name(const EngineDType& dtype) {
  for (const NamedDType& named : kDTypes) {
    if (named.dtype == dtype) return named.name;
  }
  return "";
}

}  // namespace moed
