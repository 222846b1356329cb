#include "server/kv/kv_block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <vector>

namespace moed {
namespace {

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Computes all of `tokens` into a new table, reusing what is cached.
BlockTable Fill(KvBlockManager& kv, const std::vector<int32_t>& tokens,
                std::string_view salt = "") {
  BlockTable table;
  kv.AttachPrefix(kv.FindPrefix(tokens, salt), table);
  EXPECT_TRUE(kv.Extend(table, static_cast<int64_t>(tokens.size())));
  kv.Publish(table, tokens, static_cast<int32_t>(tokens.size()), salt);
  return table;
}

TEST(KvBlockManagerTest, ExtendTakesJustTheBlocksThatAreMissing) {
  KvBlockManager kv(8, 4);
  BlockTable table;
  ASSERT_TRUE(kv.Extend(table, 1));
  EXPECT_EQ(table.block_ids.size(), 1u);
  ASSERT_TRUE(kv.Extend(table, 4));
  EXPECT_EQ(table.block_ids.size(), 1u);
  ASSERT_TRUE(kv.Extend(table, 9));
  EXPECT_EQ(table.block_ids.size(), 3u);
  EXPECT_EQ(kv.num_free_blocks(), 5);
}

TEST(KvBlockManagerTest, ExtendBeyondThePoolChangesNothing) {
  KvBlockManager kv(3, 4);
  BlockTable table;
  ASSERT_TRUE(kv.Extend(table, 4));
  EXPECT_FALSE(kv.Extend(table, 13));
  EXPECT_EQ(table.block_ids.size(), 1u);
  EXPECT_EQ(kv.num_free_blocks(), 2);
}

TEST(KvBlockManagerTest, FreeingTheLastReferenceReturnsTheBlock) {
  KvBlockManager kv(4, 4);
  const auto tokens = Tokens(9);
  BlockTable first = Fill(kv, tokens);
  BlockTable second = Fill(kv, tokens);
  EXPECT_EQ(first.block_ids[0], second.block_ids[0]);
  EXPECT_EQ(first.block_ids[1], second.block_ids[1]);
  EXPECT_NE(first.block_ids[2], second.block_ids[2]);
  EXPECT_EQ(kv.num_free_blocks(), 0);
  kv.Release(first);
  EXPECT_EQ(kv.num_free_blocks(), 1);
  kv.Release(second);
  EXPECT_EQ(kv.num_free_blocks(), 4);
  EXPECT_EQ(kv.num_cached_blocks(), 2);
}

TEST(KvBlockManagerTest, AWholePromptHitLeavesTheLastTokenToCompute) {
  KvBlockManager kv(8, 4);
  BlockTable table = Fill(kv, Tokens(8));
  EXPECT_EQ(kv.FindPrefix(Tokens(8), "").block_ids.size(), 1u);
  EXPECT_EQ(kv.FindPrefix(Tokens(9), "").block_ids.size(), 2u);
  kv.Release(table);
}

TEST(KvBlockManagerTest, OnlyFullComputedBlocksArePublished) {
  KvBlockManager kv(8, 4);
  const auto tokens = Tokens(12);
  BlockTable table;
  ASSERT_TRUE(kv.Extend(table, 12));
  kv.Publish(table, tokens, 7, "");
  EXPECT_EQ(kv.FindPrefix(tokens, "").block_ids.size(), 1u);
  kv.Publish(table, tokens, 12, "");
  EXPECT_EQ(kv.FindPrefix(Tokens(13), "").block_ids.size(), 3u);
  kv.Release(table);
}

TEST(KvBlockManagerTest, SaltsKeepPrefixesApart) {
  KvBlockManager kv(8, 4);
  BlockTable table = Fill(kv, Tokens(9), "alice");
  EXPECT_TRUE(kv.FindPrefix(Tokens(9), "bob").block_ids.empty());
  EXPECT_TRUE(kv.FindPrefix(Tokens(9), "").block_ids.empty());
  EXPECT_EQ(kv.FindPrefix(Tokens(9), "alice").block_ids.size(), 2u);
  kv.Release(table);
}

TEST(KvBlockManagerTest, TheSameBlockAfterAnotherPrefixIsAnotherBlock) {
  KvBlockManager kv(8, 4);
  BlockTable table = Fill(kv, Tokens(9));
  auto other = Tokens(9);
  other[0] = 77;  // the second block's tokens are equal, what comes before them is not
  EXPECT_TRUE(kv.FindPrefix(other, "").block_ids.empty());
  kv.Release(table);
}

TEST(KvBlockManagerTest, EvictionTakesUncachedBlocksThenTheLeastRecentlyUsedFromItsEnd) {
  KvBlockManager kv(5, 4);
  BlockTable old_table = Fill(kv, Tokens(8, 0));
  BlockTable new_table = Fill(kv, Tokens(8, 100));
  kv.Release(old_table);
  kv.Release(new_table);
  EXPECT_EQ(kv.num_free_blocks(), 5);
  EXPECT_EQ(kv.num_cached_blocks(), 4);

  BlockTable table;
  ASSERT_TRUE(kv.Extend(table, 4));  // the one block without a prefix
  EXPECT_EQ(kv.num_cached_blocks(), 4);
  ASSERT_TRUE(kv.Extend(table, 8));  // the end of the older prefix
  EXPECT_EQ(kv.FindPrefix(Tokens(9, 0), "").block_ids.size(), 1u);
  EXPECT_EQ(kv.FindPrefix(Tokens(9, 100), "").block_ids.size(), 2u);
  ASSERT_TRUE(kv.Extend(table, 12));
  EXPECT_EQ(kv.FindPrefix(Tokens(9, 0), "").block_ids.size(), 0u);
  EXPECT_EQ(kv.FindPrefix(Tokens(9, 100), "").block_ids.size(), 2u);
  kv.Release(table);
}

TEST(KvBlockManagerTest, UseMakesAPrefixRecent) {
  KvBlockManager kv(4, 4);
  BlockTable a = Fill(kv, Tokens(8, 0));
  BlockTable b = Fill(kv, Tokens(8, 100));
  kv.Release(a);
  kv.Release(b);
  BlockTable again;
  kv.AttachPrefix(kv.FindPrefix(Tokens(9, 0), ""), again);
  kv.Release(again);
  BlockTable table;
  ASSERT_TRUE(kv.Extend(table, 8));
  EXPECT_EQ(kv.FindPrefix(Tokens(9, 0), "").block_ids.size(), 2u);
  EXPECT_EQ(kv.FindPrefix(Tokens(9, 100), "").block_ids.size(), 0u);
  kv.Release(table);
}

TEST(KvBlockManagerTest, AMatchTellsHowManyOfItsBlocksCountAsFree) {
  KvBlockManager kv(8, 4);
  BlockTable table = Fill(kv, Tokens(9));
  EXPECT_EQ(kv.FindPrefix(Tokens(9), "").num_unreferenced, 0);
  kv.Release(table);
  EXPECT_EQ(kv.FindPrefix(Tokens(9), "").num_unreferenced, 2);
}

TEST(KvBlockManagerTest, ADuplicateStaysPrivateAndItsContinuationIsFoundAfterTheFirst) {
  KvBlockManager kv(8, 4);
  const auto tokens = Tokens(8);
  BlockTable first, second;
  ASSERT_TRUE(kv.Extend(first, 4));
  ASSERT_TRUE(kv.Extend(second, 8));
  kv.Publish(first, tokens, 4, "");
  kv.Publish(second, tokens, 8, "");
  const PrefixMatch match = kv.FindPrefix(Tokens(9), "");
  ASSERT_EQ(match.block_ids.size(), 2u);
  EXPECT_EQ(match.block_ids[0], first.block_ids[0]);
  EXPECT_EQ(match.block_ids[1], second.block_ids[1]);
  kv.Release(second);
  EXPECT_EQ(kv.num_cached_blocks(), 1);
  kv.Release(first);
  EXPECT_EQ(kv.num_cached_blocks(), 2);
}

// Many tables over few distinct texts: what is found is always what was written, and counts add up.
TEST(KvBlockManagerTest, RandomUseNeverServesAnotherTextAndLosesNoBlock) {
  std::mt19937 random(7);
  KvBlockManager kv(24, 4);
  std::vector<std::vector<int32_t>> content(24);  // what was written into each block, with its past
  std::vector<std::pair<BlockTable, std::vector<int32_t>>> live;
  for (int step = 0; step < 5000; ++step) {
    if (!live.empty() && random() % 2 == 0) {
      std::swap(live[random() % live.size()], live.back());
      kv.Release(live.back().first);
      live.pop_back();
    } else {
      std::vector<int32_t> tokens(1 + random() % 20);
      for (auto& token : tokens) token = static_cast<int32_t>(random() % 2);
      BlockTable table;
      const PrefixMatch match = kv.FindPrefix(tokens, "");
      const auto num_cached = static_cast<size_t>(kv.AttachPrefix(match, table));
      ASSERT_LT(num_cached, tokens.size());
      for (size_t i = 0; i < match.block_ids.size(); ++i) {
        const std::vector<int32_t> expected(tokens.begin(), tokens.begin() + 4 * (i + 1));
        ASSERT_EQ(content[match.block_ids[i]], expected);
      }
      if (kv.Extend(table, static_cast<int64_t>(tokens.size()))) {
        for (size_t i = match.block_ids.size(); i < table.block_ids.size(); ++i) {
          const size_t end = std::min(tokens.size(), 4 * (i + 1));
          content[table.block_ids[i]].assign(tokens.begin(), tokens.begin() + end);
        }
        kv.Publish(table, tokens, static_cast<int32_t>(tokens.size()), "");
        live.emplace_back(std::move(table), std::move(tokens));
      } else {
        kv.Release(table);
      }
    }
    std::set<int32_t> used;
    for (const auto& [table, tokens] : live) {
      used.insert(table.block_ids.begin(), table.block_ids.end());
    }
    ASSERT_EQ(kv.num_free_blocks(), 24 - static_cast<int32_t>(used.size()));
    ASSERT_LE(kv.num_cached_blocks(), kv.num_free_blocks());
  }
  for (auto& [table, tokens] : live) kv.Release(table);
  EXPECT_EQ(kv.num_free_blocks(), 24);
}

}  // namespace
}  // namespace moed
