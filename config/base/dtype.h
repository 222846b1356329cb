#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moed {

/// Element types of tensors in files and in memory.
enum class DType : uint8_t { kF32, kBF16, kF16, kI32, kF8E4M3 };

constexpr size_t SizeBytes(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
      return 2;
    case DType::kF8E4M3:
      return 1;
  }
  return 0;
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
    case DType::kF8E4M3:
      return "f8_e4m3";
  }
  return "unknown";
}

}  // namespace moed
