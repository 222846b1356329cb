#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "engine/api/step.h"

namespace moed {

/// How often each token occurs in one sequence, kept up to date token by token for the penalties.
/// Owned by a Sequence.
class TokenCounter {
 public:
  void AddPrompt(std::span<const int32_t> token_ids) {
    for (const int32_t id : token_ids) ++CountOf(id).num_in_prompt;
  }
  void AddOutput(int32_t token_id) { ++CountOf(token_id).num_in_output; }

  /// One entry for each distinct token, in order of first occurrence.
  const std::vector<TokenCount>& counts() const { return counts_; }

 private:
  TokenCount& CountOf(int32_t token_id) {
    const auto [it, is_new] = index_.try_emplace(token_id, counts_.size());
    if (is_new) counts_.push_back({.token_id = token_id});
    return counts_[it->second];
  }

  std::vector<TokenCount> counts_;
  absl::flat_hash_map<int32_t, size_t> index_;  // token id -> place in counts_
};

}  // namespace moed
