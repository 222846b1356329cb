#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "config/base/dtype.h"
#include "kernels/params.h"

namespace moed {

/// What a `--dtype` value asks of an engine: how it computes and how it keeps its weights.
struct EngineDType {
  DType activation = DType::kBF16;
  kernels::WeightFormat weights = kernels::WeightFormat::kStored;

  bool operator==(const EngineDType&) const = default;
};

/// "bf16", "f32", "int8" or "int4"; INVALID_ARGUMENT for anything else, naming these.
absl::StatusOr<EngineDType> ParseEngineDType(std::string_view text);

/// The `--dtype` value that asks for `dtype`; empty if none does.
std::string_view Name(const EngineDType& dtype);

}  // namespace moed
