#include "engine/kv/paged_kv_cache.h"

#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

/// The product of positive factors, or nothing when it does not fit in an int64_t.
std::optional<int64_t> Product(std::initializer_list<int64_t> factors) {
  uint64_t product = 1;
  for (int64_t factor : factors) {
    std::optional<uint64_t> next = CheckedMul(product, static_cast<uint64_t>(factor));
    if (!next) return std::nullopt;
    product = *next;
  }
  if (product > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return static_cast<int64_t>(product);
}

absl::Status TooLarge(const PagedKvCacheOptions& o) {
  return absl::InvalidArgumentError(absl::StrCat(
      "KV cache of ", o.num_blocks, " blocks x ", o.num_layers, " layers x ", o.num_kv_heads,
      " heads x ", o.block_size, " tokens x head_dim ", o.head_dim, " does not fit in 63 bits"));
}

absl::Status CheckShape(const PagedKvCacheOptions& o) {
  if (o.num_layers < 1 || o.num_kv_heads < 1 || o.head_dim < 1 || o.block_size < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "KV cache: num_layers ", o.num_layers, ", num_kv_heads ", o.num_kv_heads, ", head_dim ",
        o.head_dim, " and block_size ", o.block_size, " must all be at least 1"));
  }
  if (o.dtype != DType::kBF16 && o.dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache: dtype is ", std::string(Name(o.dtype)), ", expected bf16 or f32"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<int64_t> PagedKvCache::BytesPerBlock(const PagedKvCacheOptions& options) {
  MOED_RETURN_IF_ERROR(CheckShape(options));
  std::optional<int64_t> bytes =
      Product({2, options.num_layers, options.num_kv_heads, options.block_size, options.head_dim,
               static_cast<int64_t>(SizeBytes(options.dtype))});
  if (!bytes) return TooLarge(options);
  return *bytes;
}

absl::StatusOr<PagedKvCache> PagedKvCache::Create(kernels::Backend& backend,
                                                  const PagedKvCacheOptions& options) {
  MOED_ASSIGN_OR_RETURN(int64_t bytes_per_block, BytesPerBlock(options));
  if (options.num_blocks < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("KV cache: num_blocks is ", options.num_blocks, ", expected at least 1"));
  }
  std::optional<int64_t> total = Product({bytes_per_block, options.num_blocks});
  if (!total) return TooLarge(options);

  PagedKvCache cache(options);
  const int64_t bytes_per_tensor = *total / (2 * options.num_layers);
  for (int64_t layer = 0; layer < options.num_layers; ++layer) {
    MOED_ASSIGN_OR_RETURN(kernels::Buffer k, backend.Allocate(bytes_per_tensor));
    MOED_ASSIGN_OR_RETURN(kernels::Buffer v, backend.Allocate(bytes_per_tensor));
    cache.k_.push_back(std::move(k));
    cache.v_.push_back(std::move(v));
  }
  return cache;
}

kernels::KvCacheView PagedKvCache::layer(int64_t index) const {
  return {.k = k_[index].data(),
          .v = v_[index].data(),
          .dtype = options_.dtype,
          .num_blocks = options_.num_blocks,
          .block_size = options_.block_size};
}

int64_t PagedKvCache::size_bytes() const {
  int64_t total = 0;
  for (const kernels::Buffer& buffer : k_) total += buffer.size_bytes();
  for (const kernels::Buffer& buffer : v_) total += buffer.size_bytes();
  return total;
}

}  // namespace moed
