#include "server/kv/kv_block_manager.h"

#include <algorithm>
#include <utility>

#include "config/base/check.h"

namespace moed {

KvBlockManager::KvBlockManager(int32_t num_blocks, int32_t block_size) : block_size_(block_size) {
  MOED_CHECK(num_blocks >= 1 && block_size >= 1);
  blocks_.resize(num_blocks);
  for (int32_t id = 0; id < num_blocks; ++id) {
    blocks_[id].position = free_.insert(free_.end(), id);
  }
}

bool KvBlockManager::PrefixKey::operator==(const PrefixKey& other) const {
  return parent_id == other.parent_id && salt == other.salt &&
         std::ranges::equal(token_ids, other.token_ids);
}

int32_t KvBlockManager::NumBlocksFor(int64_t num_tokens) const {
  return static_cast<int32_t>((num_tokens + block_size_ - 1) / block_size_);
}

KvBlockManager::PrefixKey KvBlockManager::KeyOf(uint64_t parent_id,
                                                std::span<const int32_t> token_ids,
                                                int32_t block_index, std::string_view salt) const {
  const auto begin = static_cast<size_t>(block_index) * block_size_;
  return {parent_id, block_index == 0 ? salt : std::string_view(),
          token_ids.subspan(begin, block_size_)};
}

PrefixMatch KvBlockManager::FindPrefix(std::span<const int32_t> token_ids,
                                       std::string_view salt) const {
  PrefixMatch match;
  const auto limit = static_cast<int32_t>(token_ids.empty() ? 0 : token_ids.size() - 1);
  for (int32_t i = 0; i < limit / block_size_; ++i) {
    const auto found = index_.find(KeyOf(match.prefix_id, token_ids, i, salt));
    if (found == index_.end()) break;
    const Block& block = blocks_[found->second];
    match.block_ids.push_back(found->second);
    match.prefix_id = block.prefix_id;
    match.num_unreferenced += block.num_references == 0 ? 1 : 0;
  }
  return match;
}

int32_t KvBlockManager::AttachPrefix(const PrefixMatch& match, BlockTable& table) {
  MOED_CHECK(table.block_ids.empty());
  for (const int32_t id : match.block_ids) AddReference(id);
  table.block_ids = match.block_ids;
  table.num_published = static_cast<int32_t>(match.block_ids.size());
  table.prefix_id = match.prefix_id;
  return table.num_published * block_size_;
}

bool KvBlockManager::Extend(BlockTable& table, int64_t num_tokens) {
  const int32_t num_new = NumBlocksFor(num_tokens) - static_cast<int32_t>(table.block_ids.size());
  if (num_new > num_free_blocks()) return false;
  for (int32_t i = 0; i < num_new; ++i) table.block_ids.push_back(TakeFreeBlock());
  return true;
}

void KvBlockManager::Publish(BlockTable& table, std::span<const int32_t> token_ids,
                             int32_t num_computed, std::string_view salt) {
  for (; (table.num_published + 1) * block_size_ <= num_computed; ++table.num_published) {
    const PrefixKey key = KeyOf(table.prefix_id, token_ids, table.num_published, salt);
    if (const auto found = index_.find(key); found != index_.end()) {
      table.prefix_id = blocks_[found->second].prefix_id;
      continue;
    }
    const int32_t id = table.block_ids[table.num_published];
    Block& block = blocks_[id];
    block.parent_id = key.parent_id;
    block.salt = key.salt;
    block.token_ids.assign(key.token_ids.begin(), key.token_ids.end());
    block.prefix_id = ++last_prefix_id_;
    index_.emplace(block.key(), id);
    table.prefix_id = block.prefix_id;
  }
}

void KvBlockManager::Release(BlockTable& table) {
  for (auto it = table.block_ids.rbegin(); it != table.block_ids.rend(); ++it) DropReference(*it);
  table = BlockTable{};
}

int32_t KvBlockManager::TakeFreeBlock() {
  const int32_t id = free_.front();
  if (blocks_[id].prefix_id != 0) {
    Unpublish(blocks_[id]);
    --num_cached_;
  }
  used_.splice(used_.end(), free_, blocks_[id].position);
  blocks_[id].num_references = 1;
  return id;
}

void KvBlockManager::AddReference(int32_t block_id) {
  Block& block = blocks_[block_id];
  if (block.num_references++ > 0) return;
  used_.splice(used_.end(), free_, block.position);
  --num_cached_;
}

void KvBlockManager::DropReference(int32_t block_id) {
  Block& block = blocks_[block_id];
  MOED_CHECK(block.num_references > 0);
  if (--block.num_references > 0) return;
  const bool is_cached = block.prefix_id != 0;
  free_.splice(is_cached ? free_.end() : free_.begin(), used_, block.position);
  num_cached_ += is_cached ? 1 : 0;
}

void KvBlockManager::Unpublish(Block& block) {
  index_.erase(block.key());
  block.prefix_id = 0;
  block.token_ids.clear();
}

}  // namespace moed
