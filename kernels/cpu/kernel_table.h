#pragma once

#include <cstdint>

/// What exists once per instruction set, as plain functions over plain structs.
///
/// The translation units behind these tables are compiled for one instruction set each. So that
/// none of their code can be picked by the linker for the rest of the program, they include nothing
/// but this header, the simd and _inl headers (all with internal linkage) and C headers.
namespace moed::kernels::cpu {

// Weights are packed in panels of this many output features: 4 AVX-512 vectors.
inline constexpr int kPanelWidth = 64;
// A panel of gate and up together holds 32 rows of gate, then the same 32 rows of up.
inline constexpr int kGateWidth = kPanelWidth / 2;
// Attention reduces over keys in tiles of this many, counted from position 0. A tile of keys is a
// panel.
inline constexpr int kKeyTile = kPanelWidth;

// Integer weights, and the activations that meet them, have one scale for this many neighbours
// along K. A panel of them is two strips of half the columns each; a strip is [ceil(k / 32)] of
// scales bf16 [32] and values: bytes q + 128 [8, 32, 4] (column, then 4 neighbours of k), or
// nibbles q + 8 [4, 32, 4] whose lower halves are the k of bytes [2 i, ., .] and whose upper halves
// are those of [2 i + 1, ., .].
inline constexpr int kGroup = 32;
inline constexpr int kStripWidth = kPanelWidth / 2;
inline constexpr int64_t kStripScaleBytes = 2 * kStripWidth;
inline constexpr int64_t kInt8GroupBytes = kStripScaleBytes + kGroup * kStripWidth;
inline constexpr int64_t kInt4GroupBytes = kStripScaleBytes + kGroup * kStripWidth / 2;

/// What a quantised row of activations says of each group, behind the [groups, 32] values of the
/// row.
struct GroupInfo {
  float scale;           // x = scale * q; NaN if a value of the group is infinite or NaN
  int32_t minus_offset;  // -(sum of q) times what integer weights are stored with too much
};

inline constexpr int64_t NumGroups(int64_t k) { return (k + kGroup - 1) / kGroup; }
/// Bytes of a quantised row.
inline constexpr int64_t QuantizedRowBytes(int64_t k) {
  return (NumGroups(k) * (kGroup + int64_t{sizeof(GroupInfo)}) + 63) / 64 * 64;
}

enum class Epilogue : uint8_t {
  kStore,       // out f32 = y + bias
  kAccumulate,  // out f32 += scale * (y + bias)
  kRound,       // out activation dtype = y
  kSwiGlu,      // out activation dtype = silu(gate) * up, of a gate and up panel
};

// A task of a GEMM has at most this many rows.
inline constexpr int kMaxTaskRows = 96;

/// At most kMaxTaskRows rows of x times one panel of weights.
struct GemmTask {
  const void* x = nullptr;         // activation dtype [*, k], or quantised rows
  const int32_t* x_row = nullptr;  // row of x for each row, or null: row i is x row i
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t k = 0;
  const void* panel = nullptr;  // bf16 [ceil(k / 2), 64, 2], f32 [k, 64], or two strips
  // Weights that this thread will want next: fetched into cache on the way. May be none.
  const char* next = nullptr;
  int64_t next_bytes = 0;
  const float* bias = nullptr;  // [64] or null; only kStore and kAccumulate
  Epilogue epilogue = Epilogue::kStore;
  void* out = nullptr;               // [*, out_stride]
  int64_t out_stride = 0;            // in elements
  const int32_t* out_row = nullptr;  // as x_row
  int64_t out_col = 0;               // column of out of the panel's first feature
  int32_t num_cols = 0;              // features of the panel that exist: <= 64, with kSwiGlu <= 32
  float scale = 1.0f;
};

struct GemmKernels {
  void (*bf16)(const GemmTask& task);      // bf16 activations, bf16 weights
  void (*f32_bf16)(const GemmTask& task);  // f32 activations, bf16 weights
  void (*f32_f32)(const GemmTask& task);   // f32 activations, f32 weights
};

/// Products of quantised activations and integer weights, with bf16 results. Sums of a group are
/// exact; groups are summed in ascending order in f32.
struct IntGemmKernels {
  void (*int8)(const GemmTask& task);
  void (*int4)(const GemmTask& task);
  /// x bf16 [k] -> QuantizedRowBytes(k) at out, rounded to nearest; weights are stored with
  /// `weight_offset` too much.
  void (*quantize)(const uint16_t* x, int64_t k, int32_t weight_offset, void* out);
};

/// Consecutive rows of one slice.
struct AttentionRows {
  const void* q = nullptr;  // first row, activation dtype; rows are q_stride elements apart
  void* out = nullptr;      // as q
  const int32_t* block_table = nullptr;
  int32_t num_rows = 0;
  int32_t first_position = 0;  // of the first row; row i sees keys 0..first_position + i
};

/// Rows of some slices whose caches begin with the same blocks, and all query heads that share some
/// KV heads.
struct AttentionTask {
  const AttentionRows* parts = nullptr;
  int32_t num_parts = 0;
  int32_t num_rows = 0;     // of all parts
  int32_t shared_keys = 0;  // in whole tiles, the same blocks in all parts; all rows see them
  int64_t q_stride = 0;
  const void* k_cache = nullptr;  // [num_blocks, num_kv_heads, block_size, head_dim]
  const void* v_cache = nullptr;
  int32_t block_size = 0;
  int32_t num_kv_heads = 0;
  int32_t first_kv_head = 0;   // the task is about this KV head
  int32_t num_task_heads = 1;  // and the ones after it, so many in all
  int32_t group_size = 0;      // query heads per KV head
  int32_t head_dim = 0;
  float scale = 1.0f;
  void* scratch = nullptr;  // sized by attention.cc, 64-byte aligned
};

struct AttentionKernels {
  void (*bf16_bf16)(const AttentionTask& task);  // activation dtype, cache dtype
  void (*bf16_f32)(const AttentionTask& task);
  void (*f32_bf16)(const AttentionTask& task);
  void (*f32_f32)(const AttentionTask& task);
};

/// Loops over the n elements of one row.
struct RowKernels {
  float (*sum_of_squares)(const float* x, int64_t n);
  /// out = (x * scale) * weight
  void (*scale_to_f32)(const float* x, const float* weight, float scale, int64_t n, float* out);
  void (*scale_to_bf16)(const float* x, const float* weight, float scale, int64_t n, uint16_t* out);
  void (*clamp)(float* x, float limit, int64_t n);
  /// x [2 half] rotated by half: (a, b) -> (a cos - b sin, b cos + a sin); cos, sin [half]
  void (*rotate_half)(float* x, const float* cos, const float* sin, int64_t half);
  void (*to_bf16)(const float* x, int64_t n, uint16_t* out);
  /// y += a * x
  void (*add_f32)(float a, const float* x, int64_t n, float* y);
  void (*add_bf16)(float a, const uint16_t* x, int64_t n, float* y);
  /// The largest element; -infinity of none. NaNs are not seen.
  float (*max_value)(const float* x, int64_t n);
  /// out = exp((x - max) * scale), which may be x itself; returns the sum. NaN counts as -infinity.
  double (*exp_and_sum)(const float* x, float max, float scale, int64_t n, float* out);
};

/// What packs panels of weights; every instruction set gives the same bytes. Rows need not be
/// aligned.
struct PackKernels {
  /// 64 rows, of 4-byte words, to words [num_words, 64]. Rows are read up to a multiple of 16
  /// words.
  void (*words)(const char* const* rows, int64_t num_words, void* out);
  /// 32 rows, of whole groups of bf16 or f32, to groups of a strip. int8: the scale is the largest
  /// magnitude of the group / 127, int4: the first element of that magnitude / -8; values are
  /// rounded to the nearest of what the scale, rounded to bf16, can say.
  void (*int8_bf16)(const char* const* rows, int64_t num_groups, void* out);
  void (*int8_f32)(const char* const* rows, int64_t num_groups, void* out);
  void (*int4_bf16)(const char* const* rows, int64_t num_groups, void* out);
  void (*int4_f32)(const char* const* rows, int64_t num_groups, void* out);
};

/// Everything of one instruction set.
struct KernelTable {
  const char* name = nullptr;
  const GemmKernels* gemm = nullptr;
  const IntGemmKernels* int_gemm = nullptr;
  const AttentionKernels* attention = nullptr;
  const RowKernels* rows = nullptr;
  const PackKernels* pack = nullptr;
};

extern const GemmKernels kGemmPortable;
extern const GemmKernels kGemmAvx2;
extern const GemmKernels kGemmAvx512;
extern const GemmKernels kGemmAvx512Bf16;
extern const IntGemmKernels kIntGemmPortable;
extern const IntGemmKernels kIntGemmAvx2;
extern const IntGemmKernels kIntGemmAvx512;
extern const IntGemmKernels kIntGemmAvx512Vnni;
extern const AttentionKernels kAttentionPortable;
extern const AttentionKernels kAttentionAvx2;
extern const AttentionKernels kAttentionAvx512;
extern const AttentionKernels kAttentionAvx512Bf16;
extern const RowKernels kRowsPortable;
extern const RowKernels kRowsAvx2;
extern const RowKernels kRowsAvx512;
extern const PackKernels kPackPortable;
extern const PackKernels kPackAvx2;
extern const PackKernels kPackAvx512;

}  // namespace moed::kernels::cpu
