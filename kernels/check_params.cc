#include "kernels/check_params.h"

#include <algorithm>

#include "config/base/check.h"

namespace moed::kernels {

bool HasShape(const TensorView& t, int64_t rows, int64_t cols, DType dtype) {
  return t.rows == rows && t.cols == cols && t.dtype == dtype &&
         (t.data != nullptr || rows == 0 || cols == 0);
}

bool AreOffsets(std::span<const int32_t> offsets, int64_t num_experts, int64_t max_rows) {
  return static_cast<int64_t>(offsets.size()) == num_experts + 1 && offsets.front() == 0 &&
         std::is_sorted(offsets.begin(), offsets.end()) && offsets.back() <= max_rows;
}

void CheckBatch(const AttentionParams& p, int64_t max_keys) {
  const AttentionBatch& batch = *p.batch;
  const size_t slices = batch.start_position.size();
  MOED_CHECK(batch.row_begin.size() == slices + 1 && batch.block_begin.size() == slices + 1);
  MOED_CHECK(batch.row_begin[slices] <= p.q.rows);
  for (size_t i = 0; i < slices; ++i) {
    const int64_t keys =
        static_cast<int64_t>(batch.start_position[i]) + batch.row_begin[i + 1] - batch.row_begin[i];
    const int64_t blocks = batch.block_begin[i + 1] - batch.block_begin[i];
    MOED_CHECK(batch.start_position[i] >= 0 && batch.row_begin[i + 1] >= batch.row_begin[i]);
    MOED_CHECK(keys <= max_keys && blocks * p.cache.block_size >= keys);
  }
  for (int32_t block : batch.block_tables) MOED_CHECK(block >= 0 && block < p.cache.num_blocks);
}

}  // namespace moed::kernels
