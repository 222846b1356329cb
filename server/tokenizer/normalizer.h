#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/json_reader.h"

namespace moed {

/// Rewrites text before it is split, e.g. to a Unicode normal form. Owned by the Tokenizer;
/// immutable, so any thread may call it.
class Normalizer {
 public:
  /// Texts that grow beyond this are refused.
  static constexpr size_t kMaxNormalizedBytes = size_t{64} << 20;

  /// From the "normalizer" of tokenizer.json. kUnimplemented, by name, for a type not known.
  static absl::StatusOr<std::unique_ptr<const Normalizer>> Create(const JsonReader& component);

  virtual ~Normalizer() = default;

  /// Rewrites `text`, which is valid UTF-8 and stays so. kResourceExhausted when a pattern takes
  /// too long or the text grows too large.
  virtual absl::Status Normalize(std::string& text) const = 0;
};

}  // namespace moed
