#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace moed {

/// Tokens by id and ids by token, of the model and added tokens alike. Owned by the Tokenizer;
/// filled while it loads, then constant.
class Vocabulary {
 public:
  /// Ids at or above this are refused.
  static constexpr int32_t kMaxIds = 1 << 22;

  Vocabulary() = default;
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  void Reserve(size_t num_tokens) { ids_.reserve(num_tokens); }

  /// kInvalidArgument when `id` is out of range, or when the id or the token is there already.
  absl::Status Add(std::string piece, int64_t id);

  std::optional<int32_t> IdOf(std::string_view piece) const;

  /// Empty for an id without a token.
  std::string_view PieceOf(int32_t id) const;
  bool Has(int32_t id) const { return !PieceOf(id).empty(); }

  /// 1 + the largest id that has a token.
  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }

 private:
  std::vector<std::string> pieces_;  // by id; empty where there is no token
  absl::flat_hash_map<std::string, int32_t> ids_;
};

}  // namespace moed
