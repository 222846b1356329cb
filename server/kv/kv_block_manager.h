#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace moed {

/// The KV blocks of one sequence, in order of position. A value owned by the sequence; only
/// KvBlockManager changes it.
struct BlockTable {
  std::vector<int32_t>
      block_ids;              // block_ids[i] holds positions [i * block_size, (i + 1) * block_size)
  int32_t num_published = 0;  // leading blocks whose content the prefix index knows
  uint64_t prefix_id = 0;     // identity of the tokens in those blocks
};

/// The leading blocks of a token list that are in the prefix cache. Valid until the next change.
struct PrefixMatch {
  std::vector<int32_t> block_ids;
  uint64_t prefix_id = 0;
  int32_t num_unreferenced = 0;  // of those blocks: how many count as free
};

/// Which of one rank's KV blocks hold what, and for how many sequences: reference counts, a prefix
/// cache over full blocks, and least-recently-used eviction. It knows block ids only; the memory
/// belongs to the engine.
///
/// The prefix index is a tree: a full block is found by (identity of the tokens before it, its own
/// tokens), compared exactly, so that no hash collision can ever serve another text's KV.
/// Identities are numbers that are never used twice. The first block's key also holds the salt:
/// requests with different salts share nothing.
///
/// Owned by the Scheduler, one for each rank; step-loop thread only.
class KvBlockManager {
 public:
  KvBlockManager(int32_t num_blocks, int32_t block_size);
  KvBlockManager(KvBlockManager&&) = default;
  KvBlockManager& operator=(KvBlockManager&&) = default;

  int32_t num_blocks() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t block_size() const { return block_size_; }
  /// Blocks that no table refers to, cached ones included.
  int32_t num_free_blocks() const { return static_cast<int32_t>(free_.size()); }
  /// Of the free blocks: those that still hold a reusable prefix.
  int32_t num_cached_blocks() const { return num_cached_; }
  /// Blocks that hold `num_tokens` tokens.
  int32_t NumBlocksFor(int64_t num_tokens) const;

  /// The longest cached prefix of `token_ids` in full blocks. It always leaves out the last token:
  /// a sequence must compute at least one token to get logits.
  PrefixMatch FindPrefix(std::span<const int32_t> token_ids, std::string_view salt) const;

  /// Makes `match` the beginning of `table`, which must be empty. Returns the tokens it holds.
  int32_t AttachPrefix(const PrefixMatch& match, BlockTable& table);

  /// Adds blocks until `table` covers `num_tokens` positions. False, and nothing is changed, when
  /// there are too few free blocks. New blocks come from those without a prefix first, then from
  /// the least recently used cached ones.
  [[nodiscard]] bool Extend(BlockTable& table, int64_t num_tokens);

  /// Publishes the full blocks among the first `num_computed` positions, whose K and V the engine
  /// has written. `token_ids` is the whole sequence. A block whose content another block already
  /// publishes stays private.
  void Publish(BlockTable& table, std::span<const int32_t> token_ids, int32_t num_computed,
               std::string_view salt);

  /// Gives back every block of `table` and empties it. The end of a prefix is evicted before its
  /// beginning.
  void Release(BlockTable& table);

 private:
  // Key of the index; a view of what a Block owns, or of a caller's tokens during a look-up.
  struct PrefixKey {
    uint64_t parent_id = 0;  // 0 for the first block of a sequence
    std::string_view salt;   // empty but for the first block
    std::span<const int32_t> token_ids;

    bool operator==(const PrefixKey& other) const;
    template <typename H>
    friend H AbslHashValue(H h, const PrefixKey& key) {
      h = H::combine(std::move(h), key.parent_id, key.salt);
      return H::combine_contiguous(std::move(h), key.token_ids.data(), key.token_ids.size());
    }
  };
  struct Block {
    int32_t num_references = 0;
    uint64_t prefix_id = 0;  // identity of all tokens up to this block's end; 0 = not published
    uint64_t parent_id = 0;
    std::string salt;
    std::vector<int32_t> token_ids;
    std::list<int32_t>::iterator position;  // in free_ or used_

    PrefixKey key() const { return {parent_id, salt, token_ids}; }
  };

  PrefixKey KeyOf(uint64_t parent_id, std::span<const int32_t> token_ids, int32_t block_index,
                  std::string_view salt) const;
  int32_t TakeFreeBlock();
  void AddReference(int32_t block_id);
  void DropReference(int32_t block_id);
  void Unpublish(Block& block);

  int32_t block_size_;
  std::vector<Block> blocks_;  // never resized: index_ holds views into it
  // Taken from the front: blocks without a prefix, then cached ones, least recently used first.
  std::list<int32_t> free_;
  std::list<int32_t> used_;
  absl::flat_hash_map<PrefixKey, int32_t> index_;  // -> block id
  int32_t num_cached_ = 0;
  uint64_t last_prefix_id_ = 0;
};

}  // namespace moed
