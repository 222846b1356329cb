#include "absl/strings/str_cat.h"
#include "config/base/dtype.h"
#include "tests/bench/bench_support.h"

/// RoPE with the KV write, and attention over the paged cache, of one layer. Names:
/// op/shape/sequences/new tokens of each/context before them. Layers take turns, as many as make
/// the cache cold.
namespace moed::bench {
namespace {

using kernels::Buffer;

constexpr int32_t kBlockSize = 16;

struct Load {
  int64_t num_sequences;
  int64_t num_new;
  int64_t context;

  int64_t rows() const { return num_sequences * num_new; }
  int64_t blocks_each() const { return (context + num_new + kBlockSize - 1) / kBlockSize; }
};

/// The KV caches of some layers go through so many bytes before one comes again.
constexpr int64_t kColdCacheBytes = int64_t{192} << 20;

/// The caches of some layers and the rows of a step.
class Step {
 public:
  Step(kernels::Backend& backend, const ModelShape& s, const Load& load)
      : shape_(s), load_(load), num_blocks_(load.num_sequences * load.blocks_each()) {
    const int64_t elements = num_blocks_ * kBlockSize * s.num_kv_heads * s.head_dim;
    for (int64_t bytes = 0; bytes < kColdCacheBytes; bytes += 4 * elements) {
      k_.push_back(RandomActivations(backend, elements));
      v_.push_back(RandomActivations(backend, elements));
    }
    for (int64_t i = 0; i <= load.num_sequences; ++i) {
      row_begin_.push_back(static_cast<int32_t>(i * load.num_new));
      block_begin_.push_back(static_cast<int32_t>(i * load.blocks_each()));
    }
    start_.assign(load.num_sequences, static_cast<int32_t>(load.context));
    for (int64_t i = 0; i < num_blocks_; ++i) block_tables_.push_back(static_cast<int32_t>(i));
    batch_ = {.row_begin = row_begin_,
              .start_position = start_,
              .block_tables = block_tables_,
              .block_begin = block_begin_};
  }

  /// Of the layer after the one before.
  kernels::KvCacheView NextCache() {
    next_ = (next_ + 1) % k_.size();
    return {.k = k_[next_].data(),
            .v = v_[next_].data(),
            .num_blocks = num_blocks_,
            .block_size = kBlockSize};
  }
  const kernels::AttentionBatch& batch() const { return batch_; }

  /// Of each row.
  std::vector<int32_t> Positions() const {
    std::vector<int32_t> positions;
    for (int64_t i = 0; i < load_.rows(); ++i) {
      positions.push_back(static_cast<int32_t>(load_.context + i % load_.num_new));
    }
    return positions;
  }
  std::vector<int32_t> Slots() const {
    std::vector<int32_t> slots = Positions();
    for (int64_t i = 0; i < load_.rows(); ++i) {
      slots[i] += static_cast<int32_t>(i / load_.num_new * load_.blocks_each() * kBlockSize);
    }
    return slots;
  }

  Work work() const {
    const int64_t pairs_each =
        load_.num_new * load_.context + load_.num_new * (load_.num_new + 1) / 2;
    const int64_t kv_each = (load_.context + load_.num_new) * shape_.num_kv_heads;
    const int64_t num = load_.num_sequences;
    return {.operations = 4.0 * static_cast<double>(num * pairs_each * shape_.q_width()),
            .bytes = 4.0 * static_cast<double>(num * kv_each * shape_.head_dim)};
  }

 private:
  const ModelShape& shape_;
  const Load load_;
  const int64_t num_blocks_;
  std::vector<Buffer> k_, v_;  // of each layer
  size_t next_ = 0;
  std::vector<int32_t> row_begin_, start_, block_tables_, block_begin_;
  kernels::AttentionBatch batch_;
};

void Attention(benchmark::State& state, const BenchContext& context, const ModelShape& s,
               const Load& load) {
  kernels::Backend& backend = *context.backend;
  Step step(backend, s, load);
  const Buffer q = RandomActivations(backend, load.rows() * s.q_width());
  const Buffer out = *backend.Allocate(load.rows() * s.q_width() * 2);
  for (auto _ : state) {
    backend.Attention({.q = {q.data(), DType::kBF16, load.rows(), s.q_width()},
                       .cache = step.NextCache(),
                       .batch = &step.batch(),
                       .num_heads = static_cast<int32_t>(s.num_heads),
                       .num_kv_heads = static_cast<int32_t>(s.num_kv_heads),
                       .head_dim = static_cast<int32_t>(s.head_dim),
                       .scale = 0.01f,
                       .out = {out.data(), DType::kBF16, load.rows(), s.q_width()}});
  }
  Report(state, context, step.work());
}

void PrepareQkv(benchmark::State& state, const BenchContext& context, const ModelShape& s,
                const Load& load) {
  kernels::Backend& backend = *context.backend;
  Step step(backend, s, load);
  const int64_t table = (load.context + load.num_new) * (s.head_dim / 2);
  const Buffer rope_cos = ZeroFloats(backend, table);
  const Buffer rope_sin = ZeroFloats(backend, table);
  const Buffer qkv = ZeroFloats(backend, load.rows() * s.qkv_width());
  const Buffer q_out = *backend.Allocate(load.rows() * s.q_width() * 2);
  const Buffer positions = Upload(backend, step.Positions());
  const Buffer slots = Upload(backend, step.Slots());
  for (auto _ : state) {
    backend.PrepareQkv({.qkv = {qkv.data(), DType::kF32, load.rows(), s.qkv_width()},
                        .positions = positions.as<int32_t>(),
                        .slots = slots.as<int32_t>(),
                        .num_heads = static_cast<int32_t>(s.num_heads),
                        .num_kv_heads = static_cast<int32_t>(s.num_kv_heads),
                        .head_dim = static_cast<int32_t>(s.head_dim),
                        .rope_cos = rope_cos.as<float>(),
                        .rope_sin = rope_sin.as<float>(),
                        .q_out = {q_out.data(), DType::kBF16, load.rows(), s.q_width()}},
                       step.NextCache());
  }
  Report(state, context, {.bytes = 6.0 * static_cast<double>(load.rows() * s.qkv_width())});
}

}  // namespace

void RegisterAttentionBenchmarks(const BenchContext& context) {
  constexpr Load kLoads[] = {{1, 1, 160},   {16, 1, 160}, {32, 1, 160},  {1, 1, 4095},
                             {16, 1, 4095}, {1, 512, 0},  {1, 512, 3584}};
  for (const auto& [op, run] :
       {std::pair("attention", &Attention), std::pair("prepare_qkv", &PrepareQkv)}) {
    for (const ModelShape& shape : kShapes) {
      for (const Load& load : kLoads) {
        Register(absl::StrCat(op, "/", shape.name, "/sequences:", load.num_sequences,
                              "/new:", load.num_new, "/context:", load.context),
                 [&context, &shape, load, run = run](benchmark::State& state) {
                   run(state, context, shape, load);
                 });
      }
    }
  }
}

}  // namespace moed::bench
