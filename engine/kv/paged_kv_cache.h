#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace moed {

struct PagedKvCacheOptions {
  int64_t num_layers = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;
  int32_t block_size = 16;  // tokens per block
  int32_t num_blocks = 0;
  DType dtype = DType::kBF16;
};

/// The KV memory of one rank: for every layer, K and V are each [num_blocks, num_kv_heads,
/// block_size, head_dim]. Memory only: which block belongs to whom is the server's business (block
/// tables of a plan).
///
/// Owned by the engine of the rank, used from its compute thread. The backend must outlive it.
class PagedKvCache {
 public:
  /// Allocates all blocks. INVALID_ARGUMENT for a size that is not positive or does not fit in 64
  /// bits.
  static absl::StatusOr<PagedKvCache> Create(kernels::Backend& backend,
                                             const PagedKvCacheOptions& options);

  /// Bytes of one block over all layers, K and V together; `num_blocks` is not used.
  static absl::StatusOr<int64_t> BytesPerBlock(const PagedKvCacheOptions& options);

  kernels::KvCacheView layer(int64_t index) const;
  int64_t size_bytes() const;

 private:
  explicit PagedKvCache(const PagedKvCacheOptions& options) : options_(options) {}

  PagedKvCacheOptions options_;
  std::vector<kernels::Buffer> k_;  // [num_layers]
  std::vector<kernels::Buffer> v_;
};

}  // namespace moed
