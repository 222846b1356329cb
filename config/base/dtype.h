#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moed {

/// Element types of tensors in files and in memory.
enum class DType : uint8_t { kF32, kBF16, kF16, kI32 };

constexpr size_t SizeBytes(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kI32 ? 4 : 2;
}

constexpr std::string_view Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "f32";
    case DType::kBF16:
      return "bf16";
    case DType::kF16:
      return "f16";
    case DType::kI32:
      return "i32";
  }
  return "unknown";
}

}  // namespace moed
