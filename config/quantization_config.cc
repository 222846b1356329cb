#include "config/quantization_config.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace moed {
namespace {

// The modules that are not converted are known by the types of their tensors; "dequantize" asks the
// transformers library for a way of computing.
constexpr absl::string_view kKnownKeys[] = {
    "quant_method",           "weight_block_size", "fmt",        "scale_fmt", "activation_scheme",
    "modules_to_not_convert", "ignored_layers",    "dequantize",
};

void Expect(const JsonReader& json, absl::string_view key, absl::string_view expected) {
  if (json.StringOr(key, expected) == expected) return;
  json.Fail(absl::UnimplementedError(
      absl::StrCat(json.Where(key), ": expected '", expected, "', got ", json.Describe(key))));
}

}  // namespace

bool ReadFp8Weights(const JsonReader& json) {
  const std::optional<JsonReader> quantization = json.Object("quantization_config");
  if (!quantization) return false;
  if (quantization->String("quant_method") != "fp8") Expect(*quantization, "quant_method", "fp8");
  if (!json.status().ok()) return false;
  quantization->RefuseUnknownKeys(kKnownKeys);
  Expect(*quantization, "fmt", "e4m3");
  // Scales that are powers of two; they are stored like any others.
  Expect(*quantization, "scale_fmt", "ue8m0");
  // Activations stay bf16 here, which is more than the scheme asks for. Static scales would have
  // tensors of their own.
  Expect(*quantization, "activation_scheme", "dynamic");
  constexpr absl::string_view kBlock = "weight_block_size";
  if (quantization->IntList(kBlock) != std::vector<int64_t>{128, 128}) {
    json.Fail(absl::UnimplementedError(absl::StrCat(quantization->Where(kBlock),
                                                    ": expected [128, 128], got ",
                                                    quantization->Describe(kBlock))));
  }
  return true;
}

}  // namespace moed
