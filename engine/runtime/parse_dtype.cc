#include "engine/runtime/parse_dtype.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace moed {

absl::StatusOr<DType> ParseActivationDType(std::string_view text) {
  if (text == "bf16") return DType::kBF16;
  if (text == "f32") return DType::kF32;
  if (text == "int8" || text == "int4") {
    return absl::UnimplementedError(
        absl::StrCat("dtype ", std::string(text), " is not supported yet: use bf16 or f32"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat("dtype is \"", std::string(text), "\", expected bf16 or f32"));
}

}  // namespace moed
