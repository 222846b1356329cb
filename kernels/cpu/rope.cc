#include <algorithm>
#include <cmath>
#include <cstring>

#include "config/base/check.h"
#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {
namespace {

/// Normalises num_heads heads, each alone or all as one, as qk_norm says.
void NormHeads(const RowKernels& rows, const PrepareQkvParams& p, const float* weight,
               int64_t num_heads, float* x) {
  if (p.qk_norm == QkNorm::kNone) return;
  const bool per_head = p.qk_norm == QkNorm::kPerHead;
  const int64_t width = per_head ? p.head_dim : num_heads * p.head_dim;
  for (int64_t i = 0; i < (per_head ? num_heads : 1); ++i, x += width) {
    const float mean = rows.sum_of_squares(x, width) / static_cast<float>(width);
    rows.scale_to_f32(x, weight, 1.0f / std::sqrt(mean + p.norm_eps), width, x);
  }
}

void Rotate(const RowKernels& rows, const PrepareQkvParams& p, int32_t position, int64_t num_heads,
            float* x) {
  const int64_t half = p.head_dim / 2;
  for (int64_t head = 0; head < num_heads; ++head, x += p.head_dim) {
    rows.rotate_half(x, p.rope_cos + position * half, p.rope_sin + position * half, half);
  }
}

void StoreElements(const RowKernels& rows, const float* x, int64_t n, DType dtype, void* out) {
  if (dtype == DType::kBF16) return rows.to_bf16(x, n, static_cast<uint16_t*>(out));
  std::memcpy(out, x, n * sizeof(float));
}

/// The rows [num_kv_heads] of one token in a cache (k or v).
struct CacheSlot {
  char* first = nullptr;    // of head 0
  int64_t head_stride = 0;  // in bytes
};

CacheSlot FindSlot(const PrepareQkvParams& p, const KvCacheView& view, int32_t slot, void* cache) {
  const int64_t row_bytes = p.head_dim * static_cast<int64_t>(SizeBytes(view.dtype));
  const int64_t block = slot / view.block_size, offset = slot % view.block_size;
  const int64_t first_row = block * p.num_kv_heads * view.block_size + offset;
  return {.first = static_cast<char*>(cache) + first_row * row_bytes,
          .head_stride = view.block_size * row_bytes};
}

/// x [num_kv_heads, head_dim] into a slot.
void StoreHeads(const RowKernels& rows, const PrepareQkvParams& p, const float* x, DType dtype,
                const CacheSlot& slot) {
  for (int64_t head = 0; head < p.num_kv_heads; ++head) {
    StoreElements(rows, x + head * p.head_dim, p.head_dim, dtype,
                  slot.first + head * slot.head_stride);
  }
}

}  // namespace

void PrepareQkv(CpuContext& context, const PrepareQkvParams& p, const KvCacheView& cache) {
  const RowKernels& rows = *context.kernels().rows;
  const int64_t q_width = static_cast<int64_t>(p.num_heads) * p.head_dim;
  const int64_t kv_width = static_cast<int64_t>(p.num_kv_heads) * p.head_dim;
  const int64_t width = q_width + 2 * kv_width;
  context.ReserveScratch(width * static_cast<int64_t>(sizeof(float)));
  context.ForEachRow(p.qkv.rows, width, [&](int64_t row, int thread) {
    float* q = static_cast<float*>(context.Scratch(thread));
    float* k = q + q_width;
    float* v = k + kv_width;
    std::memcpy(q, p.qkv.as<float>() + row * width, width * sizeof(float));
    NormHeads(rows, p, p.q_norm, p.num_heads, q);
    NormHeads(rows, p, p.k_norm, p.num_kv_heads, k);
    if (p.clip_qkv > 0) rows.clamp(q, p.clip_qkv, width);
    Rotate(rows, p, p.positions[row], p.num_heads, q);
    Rotate(rows, p, p.positions[row], p.num_kv_heads, k);
    const int64_t q_bytes = q_width * static_cast<int64_t>(SizeBytes(p.q_out.dtype));
    StoreElements(rows, q, q_width, p.q_out.dtype, p.q_out.as<char>() + row * q_bytes);
    const int32_t slot = p.slots[row];
    MOED_CHECK(slot >= 0 && slot / cache.block_size < cache.num_blocks);
    StoreHeads(rows, p, k, cache.dtype, FindSlot(p, cache, slot, cache.k));
    StoreHeads(rows, p, v, cache.dtype, FindSlot(p, cache, slot, cache.v));
  });
}

}  // namespace moed::kernels::cpu
