#include "engine/kv/paged_kv_cache.h"

#include <cstdint>
#include <limits>
#include <memory>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/create_backend.h"

namespace moed {
namespace {

using ::testing::HasSubstr;

class PagedKvCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<kernels::Backend>> backend = kernels::CreateBackend({});
    ASSERT_TRUE(backend.ok()) << backend.status();
    backend_ = *std::move(backend);
  }

  std::unique_ptr<kernels::Backend> backend_;
  PagedKvCacheOptions options_ = {.num_layers = 3,
                                  .num_kv_heads = 2,
                                  .head_dim = 8,
                                  .block_size = 4,
                                  .num_blocks = 5,
                                  .dtype = DType::kBF16};
};

TEST_F(PagedKvCacheTest, HoldsKAndVOfEveryLayerForEveryBlock) {
  const auto cache = PagedKvCache::Create(*backend_, options_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const auto bytes_per_block = PagedKvCache::BytesPerBlock(options_);
  ASSERT_TRUE(bytes_per_block.ok());
  EXPECT_EQ(*bytes_per_block, 2 * 3 * 2 * 4 * 8 * 2);
  EXPECT_EQ(cache->size_bytes(), 5 * *bytes_per_block);
}

TEST_F(PagedKvCacheTest, GivesEveryLayerMemoryOfItsOwn) {
  options_.dtype = DType::kF32;
  const auto cache = PagedKvCache::Create(*backend_, options_);
  ASSERT_TRUE(cache.ok()) << cache.status();
  const int64_t elements = 5 * 2 * 4 * 8;
  for (int layer = 0; layer < 3; ++layer) {
    const kernels::KvCacheView view = cache->layer(layer);
    EXPECT_EQ(view.num_blocks, 5);
    EXPECT_EQ(view.block_size, 4);
    EXPECT_EQ(view.dtype, DType::kF32);
    for (int64_t i = 0; i < elements; ++i) {
      static_cast<float*>(view.k)[i] = static_cast<float>(layer);
      static_cast<float*>(view.v)[i] = static_cast<float>(layer) + 0.5f;
    }
  }
  for (int layer = 0; layer < 3; ++layer) {
    const kernels::KvCacheView view = cache->layer(layer);
    for (int64_t i = 0; i < elements; ++i) {
      ASSERT_EQ(static_cast<float*>(view.k)[i], static_cast<float>(layer));
      ASSERT_EQ(static_cast<float*>(view.v)[i], static_cast<float>(layer) + 0.5f);
    }
  }
}

TEST_F(PagedKvCacheTest, RefusesASizeBeyond63Bits) {
  options_.num_layers = std::numeric_limits<int64_t>::max() / 4;
  const auto cache = PagedKvCache::Create(*backend_, options_);
  EXPECT_EQ(cache.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(cache.status().message(), HasSubstr("63 bits"));
}

TEST_F(PagedKvCacheTest, RefusesNoBlocksAndAnUnknownDtype) {
  options_.num_blocks = 0;
  EXPECT_THAT(PagedKvCache::Create(*backend_, options_).status().message(),
              HasSubstr("num_blocks is 0"));
  options_.num_blocks = 5;
  options_.dtype = DType::kF16;
  EXPECT_THAT(PagedKvCache::Create(*backend_, options_).status().message(),
              HasSubstr("dtype is f16"));
}

}  // namespace
}  // namespace moed
