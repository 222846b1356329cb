#include <algorithm>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "tests/gpu/bench_table.h"

/// The grouped GEMMs of a MoE layer and attention, at the shapes of real models. Weights and caches
/// are far larger than the L2 cache.
namespace moed::gpu_bench {
namespace {

using kernels::Buffer;

struct MoeShape {
  const char* name;
  int64_t hidden, width, num_experts, top_k;
};
constexpr MoeShape kMoeShapes[] = {{"Qwen3-30B-A3B", 2048, 768, 128, 8},
                                   {"Mixtral-8x7B", 4096, 14336, 8, 2},
                                   {"DeepSeek-V3 1/8", 7168, 2048, 32, 8}};

/// A layer's experts, all with the same numbers.
absl::StatusOr<std::unique_ptr<kernels::ExpertWeights>> LoadExperts(kernels::Backend& backend,
                                                                    const MoeShape& s) {
  const std::vector<uint16_t> w = RandomBf16(s.hidden * s.width);
  const kernels::HostMatrix wide = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.width, .cols = s.hidden};
  const kernels::HostMatrix tall = {
      .data = w.data(), .dtype = DType::kBF16, .rows = s.hidden, .cols = s.width};
  const std::vector<kernels::ExpertSource> sources(s.num_experts,
                                                   {.gate = wide, .up = wide, .down = tall});
  return backend.LoadExperts(sources, kernels::WeightFormat::kStored);
}

/// `rows` rows for each expert, of tokens in random order.
struct ExpertRows {
  static absl::StatusOr<ExpertRows> Make(kernels::Backend& backend, const MoeShape& s,
                                         int64_t rows) {
    ExpertRows out;
    out.num_rows = s.num_experts * rows;
    out.num_tokens = std::max(rows, (out.num_rows + s.top_k - 1) / s.top_k);
    std::vector<int32_t> offsets(s.num_experts + 1), x_row(out.num_rows);
    for (int64_t e = 0; e <= s.num_experts; ++e) offsets[e] = static_cast<int32_t>(e * rows);
    for (int64_t i = 0; i < out.num_rows; ++i) x_row[i] = static_cast<int32_t>(i % out.num_tokens);
    std::shuffle(x_row.begin(), x_row.end(), std::mt19937(3));
    MOED_ASSIGN_OR_RETURN(out.offsets, UploadInts(backend, offsets));
    MOED_ASSIGN_OR_RETURN(out.x_row, UploadInts(backend, x_row));
    MOED_ASSIGN_OR_RETURN(out.x, RandomRows(backend, out.num_tokens * s.hidden));
    MOED_ASSIGN_OR_RETURN(out.mid, RandomRows(backend, out.num_rows * s.width));
    MOED_ASSIGN_OR_RETURN(out.out, backend.Allocate(2 * out.num_rows * s.hidden));
    return out;
  }

  int64_t num_rows = 0, num_tokens = 0;
  Buffer offsets, x_row, x, mid, out;
};

void GateUp(BenchParams& p, const MoeShape& s, const kernels::ExpertWeights& weights,
            const ExpertRows& rows) {
  p.backend.ExpertsGateUp({.x = {rows.x.data(), DType::kBF16, rows.num_tokens, s.hidden},
                           .x_row = rows.x_row.as<int32_t>(),
                           .experts = &weights,
                           .backend_offsets = rows.offsets.as<int32_t>(),
                           .max_rows_per_expert = rows.num_rows / s.num_experts,
                           .out = {rows.mid.data(), DType::kBF16, rows.num_rows, s.width}});
}

void Down(BenchParams& p, const MoeShape& s, const kernels::ExpertWeights& weights,
          const ExpertRows& rows) {
  p.backend.ExpertsDown({.x = {rows.mid.data(), DType::kBF16, rows.num_rows, s.width},
                         .experts = &weights,
                         .backend_offsets = rows.offsets.as<int32_t>(),
                         .max_rows_per_expert = rows.num_rows / s.num_experts,
                         .out = {rows.out.data(), DType::kBF16, rows.num_rows, s.hidden}});
}

absl::Status MeasureExperts(BenchParams& p, const MoeShape& s,
                            const kernels::ExpertWeights& weights, int64_t rows_each) {
  MOED_ASSIGN_OR_RETURN(const ExpertRows rows, ExpertRows::Make(p.backend, s, rows_each));
  const double matrix = static_cast<double>(s.num_experts * s.hidden * s.width);
  const double products = static_cast<double>(rows.num_rows * s.hidden * s.width);
  const double tokens = static_cast<double>(rows.num_tokens),
               n = static_cast<double>(rows.num_rows);
  const double h = static_cast<double>(s.hidden), i = static_cast<double>(s.width);
  const Bound bound = rows_each <= 64 ? Bound::kBytes : Bound::kArithmetic;
  const double goal = rows_each <= 32 ? 0.75 : (rows_each >= 256 ? 0.55 : 0);
  MOED_ASSIGN_OR_RETURN(const double gate_up,
                        TimeStep(p, {}, [&] { GateUp(p, s, weights, rows); }));
  p.table.Add({.name = absl::StrCat("gate_up ", s.name, ", rows ", rows_each),
               .seconds = gate_up,
               .bytes = 2 * (2 * matrix + tokens * h + n * i),
               .operations = 4 * products,
               .bound = bound,
               .goal = goal});
  MOED_ASSIGN_OR_RETURN(const double down, TimeStep(p, {}, [&] { Down(p, s, weights, rows); }));
  p.table.Add({.name = absl::StrCat("down ", s.name, ", rows ", rows_each),
               .seconds = down,
               .bytes = 2 * (matrix + n * i + n * h),
               .operations = 2 * products,
               .bound = bound,
               .goal = goal});
  return absl::OkStatus();
}

struct HeadShape {
  const char* name;
  int64_t num_heads, num_kv_heads, head_dim;
};
constexpr HeadShape kHeadShapes[] = {{"Qwen3-30B-A3B", 32, 4, 128}, {"Mixtral-8x7B", 32, 8, 128}};

struct Load {
  int64_t num_sequences, num_new, context;  // context: keys before
};

/// One layer's cache and a batch.
class AttentionCase {
 public:
  static absl::StatusOr<std::unique_ptr<AttentionCase>> Make(kernels::Backend& backend,
                                                             const HeadShape& s, const Load& load) {
    auto out = std::make_unique<AttentionCase>();
    const int64_t each = (load.context + load.num_new + kBlock - 1) / kBlock;
    out->num_blocks_ = load.num_sequences * each;
    for (int64_t i = 0; i <= load.num_sequences; ++i) {
      out->row_begin_.push_back(static_cast<int32_t>(i * load.num_new));
      out->block_begin_.push_back(static_cast<int32_t>(i * each));
    }
    out->start_.assign(load.num_sequences, static_cast<int32_t>(load.context));
    out->tables_.resize(out->num_blocks_);
    std::iota(out->tables_.begin(), out->tables_.end(), 0);
    std::shuffle(out->tables_.begin(), out->tables_.end(), std::mt19937(4));
    out->batch_ = {.row_begin = out->row_begin_,
                   .start_position = out->start_,
                   .block_tables = out->tables_,
                   .block_begin = out->block_begin_};
    const int64_t elements = out->num_blocks_ * kBlock * s.num_kv_heads * s.head_dim;
    MOED_ASSIGN_OR_RETURN(out->k_, RandomRows(backend, elements));
    MOED_ASSIGN_OR_RETURN(out->v_, RandomRows(backend, elements));
    const int64_t width = s.num_heads * s.head_dim;
    out->rows_ = load.num_sequences * load.num_new;
    MOED_ASSIGN_OR_RETURN(out->q_, RandomRows(backend, out->rows_ * width));
    MOED_ASSIGN_OR_RETURN(out->out_, backend.Allocate(2 * out->rows_ * width));
    return out;
  }

  kernels::StepParams step(const HeadShape& s) const {
    return {.attention = &batch_,
            .num_heads = static_cast<int32_t>(s.num_heads),
            .num_kv_heads = static_cast<int32_t>(s.num_kv_heads),
            .head_dim = static_cast<int32_t>(s.head_dim)};
  }

  void Run(kernels::Backend& backend, const HeadShape& s) const {
    const int64_t width = s.num_heads * s.head_dim;
    backend.Attention(
        {.q = {q_.data(), DType::kBF16, rows_, width},
         .cache = {.k = k_.data(), .v = v_.data(), .num_blocks = num_blocks_, .block_size = kBlock},
         .batch = &batch_,
         .num_heads = static_cast<int32_t>(s.num_heads),
         .num_kv_heads = static_cast<int32_t>(s.num_kv_heads),
         .head_dim = static_cast<int32_t>(s.head_dim),
         .scale = 0.01f,
         .out = {out_.data(), DType::kBF16, rows_, width}});
  }

 private:
  static constexpr int32_t kBlock = 16;

  int64_t num_blocks_ = 0, rows_ = 0;
  std::vector<int32_t> row_begin_, start_, tables_, block_begin_;
  kernels::AttentionBatch batch_;
  Buffer k_, v_, q_, out_;
};

absl::Status MeasureAttention(BenchParams& p, const HeadShape& s, const Load& load) {
  MOED_ASSIGN_OR_RETURN(const auto c, AttentionCase::Make(p.backend, s, load));
  constexpr int kLayers = 8;
  const auto ops = [&] {
    for (int i = 0; i < kLayers; ++i) c->Run(p.backend, s);
  };
  MOED_ASSIGN_OR_RETURN(const double seconds, TimeStep(p, c->step(s), ops));
  const int64_t pairs =
      load.num_sequences * (load.num_new * load.context + load.num_new * (load.num_new + 1) / 2);
  const int64_t keys = load.num_sequences * (load.context + load.num_new);
  const bool is_decode = load.num_new == 1;
  p.table.Add({.name = absl::StrCat("attention ", s.name, ", ", load.num_sequences, " x ",
                                    load.num_new, " after ", load.context),
               .seconds = seconds / kLayers,
               .bytes = 4.0 * static_cast<double>(keys * s.num_kv_heads * s.head_dim),
               .operations = 4.0 * static_cast<double>(pairs * s.num_heads * s.head_dim),
               .bound = is_decode ? Bound::kBytes : Bound::kArithmetic,
               // Caches that fit into L2 say nothing about bandwidth.
               .goal = is_decode && keys >= 65536 ? 0.75 : 0});
  return absl::OkStatus();
}

}  // namespace

absl::Status BenchGemm(BenchParams& p) {
  for (MoeShape s : kMoeShapes) {
    if (p.scale.tiny) s = {s.name, 128, 64, 4, 2};
    MOED_ASSIGN_OR_RETURN(const auto weights, LoadExperts(p.backend, s));
    for (int64_t rows : {1, 2, 8, 32, 64, 256, 1024}) {
      if (p.scale.tiny && rows > 64) continue;
      MOED_RETURN_IF_ERROR(MeasureExperts(p, s, *weights, rows));
    }
  }
  return absl::OkStatus();
}

absl::Status BenchAttention(BenchParams& p) {
  const std::vector<Load> real = {{1, 1, 4095},  {8, 1, 4095},   {32, 1, 4095}, {64, 1, 4095},
                                  {1, 1, 32767}, {16, 1, 16383}, {1, 4096, 0},  {1, 2048, 14336}};
  const std::vector<Load> tiny = {{1, 1, 300}, {3, 1, 20}, {1, 40, 0}};
  for (const HeadShape& s : kHeadShapes) {
    for (const Load& load : p.scale.tiny ? tiny : real) {
      MOED_RETURN_IF_ERROR(MeasureAttention(p, s, load));
    }
  }
  return absl::OkStatus();
}

}  // namespace moed::gpu_bench
