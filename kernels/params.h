#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/tensor_view.h"

/// Parameters of the ops in backend.h. "activation dtype" is bf16 in a bf16 engine and f32 in an
/// f32 one. Symbols: T rows (tokens), H hidden, V vocabulary, E experts, K top-k, I expert width, S
/// sampled rows, nh/nkv query/KV heads, hd head_dim. Index arrays are int32 in backend memory
/// unless said to be host.
namespace moed::kernels {

/// Which promise the sums of a backend keep.
enum class Numerics : uint8_t {
  kInvariant,  // a row's bits depend on that row alone: design.md, section 3
  kFast,       // on NVIDIA GPUs, cuBLAS where it wins: bits depend on the number of rows
};

/// The `--numerics` value that asks for it.
constexpr std::string_view Name(Numerics numerics) {
  return numerics == Numerics::kFast ? "fast" : "invariant";
}

/// How a backend keeps a matrix that it is given.
enum class WeightFormat : uint8_t {
  // bf16 in a bf16 backend; in an f32 backend bf16 or f32, as it was stored. Block-scaled fp8 stays
  // fp8 on NVIDIA GPUs, and becomes bf16 or f32 on CPUs.
  kStored,
  kInt8,  // 8-bit integers with one bf16 scale for 32 neighbours along K; only in a bf16 backend
  kInt4,  // likewise with 4-bit integers
};

/// A matrix [N, K] (and its optional bias) prepared by a backend for y = x W^T + b.
class LinearWeights {
 public:
  virtual ~LinearWeights() = default;
  virtual int64_t out_features() const = 0;  // N
  virtual int64_t in_features() const = 0;   // K
  virtual int64_t size_bytes() const = 0;
};

/// The gate, up and down matrices of a list of experts, prepared by a backend. A dense MLP or a
/// shared expert is a list of one.
class ExpertWeights {
 public:
  virtual ~ExpertWeights() = default;
  virtual int64_t num_experts() const = 0;
  virtual int64_t hidden_size() const = 0;        // H
  virtual int64_t intermediate_size() const = 0;  // I
  virtual int64_t size_bytes() const = 0;
};

/// Host views of one expert: gate [I, H], up [I, H], down [H, I].
struct ExpertSource {
  HostMatrix gate;
  HostMatrix up;
  HostMatrix down;
};

struct LinearParams {
  TensorView x;  // [T, K] activation dtype
  const LinearWeights* weights = nullptr;
  TensorView out;           // [T, N] f32
  bool accumulate = false;  // false: out = y; true: out += scale * y
  float scale = 1.0f;       // only with accumulate
};

enum class QkNorm : uint8_t { kNone, kPerHead, kFull };

/// From the fused projection to rotated q, and k and v in the cache.
struct PrepareQkvParams {
  TensorView qkv;                      // [T, (nh + 2 nkv) * hd] f32, q then k then v
  const int32_t* positions = nullptr;  // [T]
  const int32_t* slots = nullptr;      // [T] block_id * block_size + offset
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  QkNorm qk_norm = QkNorm::kNone;
  const float* q_norm = nullptr;  // [hd] or [nh * hd]
  const float* k_norm = nullptr;  // [hd] or [nkv * hd]
  float norm_eps = 0;
  float clip_qkv = 0;  // 0 = off; clamps q, k and v to +-clip after the norms
  const float* rope_cos =
      nullptr;  // [max_positions, hd / 2] attention factor folded in; half rotation
  const float* rope_sin = nullptr;
  TensorView q_out;  // [T, nh * hd] activation dtype
};

/// One layer of the paged KV cache: k and v are each [num_blocks, nkv, block_size, hd].
struct KvCacheView {
  void* k = nullptr;
  void* v = nullptr;
  DType dtype = DType::kBF16;
  int64_t num_blocks = 0;
  int32_t block_size = 16;
};

/// A step's slices for attention, in row order. Host arrays; a backend uploads what it needs.
struct AttentionBatch {
  std::span<const int32_t> row_begin;  // [num_slices + 1] exclusive prefix sum of num_new_tokens
  std::span<const int32_t> start_position;  // [num_slices]
  std::span<const int32_t> block_tables;    // concatenated
  std::span<const int32_t> block_begin;     // [num_slices + 1] into block_tables
};

struct AttentionParams {
  TensorView q;  // [T, nh * hd] activation dtype
  KvCacheView cache;
  const AttentionBatch* batch = nullptr;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  float scale = 1.0f;  // multiplies q . k
  TensorView out;      // [T, nh * hd] activation dtype
};

enum class RouterScoring : uint8_t {
  kSoftmaxThenTopK,  // softmax over all E, keep the top k
  kTopKThenSoftmax,  // top k of the logits, softmax over those
};

struct RouteParams {
  TensorView logits;  // [T, E] f32
  int32_t top_k = 0;
  RouterScoring scoring = RouterScoring::kSoftmaxThenTopK;
  bool renormalize = false;       // divide the k weights by their sum
  int32_t* topk_ids = nullptr;    // [T, K], best first; ties go to the lower expert id
  float* topk_weights = nullptr;  // [T, K]
};

/// Groups the rows of a layer by the expert slot that computes them: nothing of it is known to the
/// host.
struct PlanExpertsParams {
  const int32_t* topk_ids = nullptr;  // [T, K]
  int64_t num_tokens = 0;             // T
  int32_t top_k = 0;                  // K, with T * K below 2^31
  int32_t num_experts = 0;
  const int32_t* slot_of_expert = nullptr;  // [num_experts]
  int32_t num_slots = 0;
  /// [1]: tokens from there on are computed but not counted; null: all are counted.
  const int32_t* num_counted_tokens = nullptr;
  int32_t counted_begin = 0;  // nor are tokens before this, or from counted_end on
  int32_t counted_end = INT32_MAX;
  int32_t* expert_offsets = nullptr;     // [num_slots + 1] rows of slot s are [o[s], o[s+1])
  int32_t* x_row = nullptr;              // [T * K] token of each row, by (slot, token, k)
  int32_t* out_row = nullptr;            // [T * K] token * K + k of each row
  int32_t* tokens_per_expert = nullptr;  // [num_experts]
};

/// row_of[t, k] = block_of_expert[topk_ids[t, k]] * block_rows + t * K + k: where each choice's row
/// is when every rank has returned a block of them.
struct LocateRowsParams {
  const int32_t* topk_ids = nullptr;         // [T, K]
  int64_t num_tokens = 0;                    // T
  int32_t top_k = 0;                         // K
  const int32_t* block_of_expert = nullptr;  // [num_experts]
  int32_t block_rows = 0;                    // of one block; all rows fit in 31 bits
  int32_t* row_of = nullptr;                 // [T, K]
};

struct GatherRowsParams {
  TensorView src;                      // [*, cols] any dtype
  const int32_t* row_index = nullptr;  // [out.rows]
  TensorView out;                      // [n, cols] same dtype
};

/// Grouped GEMM over gate and up, then silu(gate) * up.
struct ExpertsGateUpParams {
  TensorView x;                    // [*, H] activation dtype
  const int32_t* x_row = nullptr;  // [num_rows] row of x for each row, or null: row i is x row i
  const ExpertWeights* experts = nullptr;
  std::span<const int32_t>
      expert_offsets;  // [num_experts + 1] host: rows of expert e are [o[e], o[e+1])
  /// The same in backend memory, instead of expert_offsets; then there are out.rows rows, and no
  /// expert has more than max_rows_per_expert.
  const int32_t* backend_offsets = nullptr;
  int64_t max_rows_per_expert = 0;
  TensorView out;  // [num_rows, I] activation dtype
};

/// Grouped GEMM over down.
struct ExpertsDownParams {
  TensorView x;  // [num_rows, I] activation dtype
  const ExpertWeights* experts = nullptr;
  std::span<const int32_t> expert_offsets;   // as above
  const int32_t* backend_offsets = nullptr;  // as above; then there are x.rows rows
  int64_t max_rows_per_expert = 0;           // as above
  const int32_t* out_row = nullptr;          // [num_rows] row of out for each row, or null: row i
  TensorView out;                            // [*, H] activation dtype
};

/// hidden[t] += scale * sum over j = 0..K-1, in that order, in f32, of weight[t, j] *
/// rows[row_of[t, j]].
struct CombineParams {
  TensorView rows;                      // [*, H] activation dtype
  const int32_t* row_of = nullptr;      // [T, K]
  const float* topk_weights = nullptr;  // [T, K]
  int32_t top_k = 0;
  float scale = 1.0f;
  TensorView hidden;  // [T, H] f32
};

/// hidden[t] += scale * (gate_logits ? sigmoid(gate_logits[t]) : 1) * rows[t].
struct AddRowsParams {
  TensorView rows;                     // [T, H] activation dtype
  const float* gate_logits = nullptr;  // [T]
  float scale = 1.0f;
  TensorView hidden;  // [T, H] f32
};

/// One step of an engine: what its ops have in common, and whether another step like it may come.
struct StepParams {
  /// Of all Attention calls of the step, which point to it; null when there are none.
  const AttentionBatch* attention = nullptr;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  /// Not 0: steps with the same number call the same ops with the same arguments, except for what
  /// backend memory and `attention` hold, which has the same numbers of rows of slices. None of
  /// their ops reads other host memory or gives something back to the host.
  int64_t recording_id = 0;
};

/// How to choose one row's token. Spans are host memory.
struct SampleRow {
  float temperature = 1.0f;  // 0 = greedy
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float presence_penalty = 0.0f;
  float frequency_penalty = 0.0f;
  float repetition_penalty = 1.0f;
  std::span<const std::pair<int32_t, float>> logit_bias;
  std::span<const int32_t> allowed_token_ids;  // empty = all
  std::span<const int32_t> banned_token_ids;
  std::span<const int32_t> counted_token_ids;  // tokens seen so far, for the penalties
  std::span<const int32_t> output_counts;      // per counted token: occurrences in the output only
  uint64_t seed = 0;
  uint32_t sequence_index = 0;
  uint64_t position = 0;
  int32_t num_top_logprobs = -1;  // -1 = no logprobs
};

struct SampleOutput {
  int32_t token_id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top_logprobs;  // descending
};

struct SampleParams {
  TensorView logits;                // [S, V] f32; clobbered
  int32_t num_valid_tokens = 0;     // ids from here on have no token and are never chosen
  std::span<const SampleRow> rows;  // [S]
  std::span<SampleOutput> out;      // [S]
};

}  // namespace moed::kernels
