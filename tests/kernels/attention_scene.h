#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

#include "tests/kernels/op_test_util.h"

namespace moed::kernels {

struct Heads {
  int32_t num_heads, num_kv_heads, head_dim;
  int64_t q_width() const { return int64_t{num_heads} * head_dim; }
  int64_t kv_width() const { return int64_t{num_kv_heads} * head_dim; }
};

/// The keys, values and queries of one sequence: [length, width].
struct Sequence {
  std::vector<float> q, k, v;
  int32_t length;
};

inline Sequence MakeSequence(const Heads& h, int32_t length, uint32_t seed, DType dtype) {
  return {.q = RandomValues(length * h.q_width(), seed, dtype, 1.5f),
          .k = RandomValues(length * h.kv_width(), seed + 1, DType::kBF16),
          .v = RandomValues(length * h.kv_width(), seed + 2, DType::kBF16),
          .length = length};
}

/// A paged cache of some sequences; their blocks are interleaved and everything unused is NaN.
class Cache {
 public:
  Cache(Backend& backend, const Heads& h, const std::vector<Sequence>& sequences, DType dtype,
        int32_t block_size)
      : heads_(h), block_size_(block_size), tables_(sequences.size()) {
    int32_t next_block = 2;  // the first blocks belong to nobody
    int32_t longest = 0;
    for (const Sequence& s : sequences) longest = std::max(longest, s.length);
    for (int32_t first = 0; first < longest; first += block_size) {
      for (size_t i = sequences.size(); i-- > 0;) {
        if (first < sequences[i].length) tables_[i].push_back(next_block++);
      }
    }
    num_blocks_ = next_block + 1;
    const int64_t rows = int64_t{num_blocks_} * h.num_kv_heads * block_size;
    std::vector<float> k(rows * h.head_dim, NAN), v(rows * h.head_dim, NAN);
    for (size_t i = 0; i < sequences.size(); ++i) {
      Fill(sequences[i].k, tables_[i], k);
      Fill(sequences[i].v, tables_[i], v);
    }
    k_ = std::make_unique<Tensor>(backend, dtype, h.head_dim, k);
    v_ = std::make_unique<Tensor>(backend, dtype, h.head_dim, v);
    view_ = {.k = k_->data<void>(),
             .v = v_->data<void>(),
             .dtype = dtype,
             .num_blocks = num_blocks_,
             .block_size = block_size};
  }

  /// Lets sequence `to` begin with the whole blocks of the first `keys` keys of sequence `from`.
  void ShareBlocks(size_t from, size_t to, int32_t keys) {
    std::copy_n(tables_[from].begin(), keys / block_size_, tables_[to].begin());
  }

  const KvCacheView& view() const { return view_; }
  const std::vector<int32_t>& table(size_t sequence) const { return tables_[sequence]; }

 private:
  void Fill(const std::vector<float>& from, const std::vector<int32_t>& table,
            std::vector<float>& to) const {
    const int64_t hd = heads_.head_dim;
    for (int64_t t = 0; t < static_cast<int64_t>(from.size()) / heads_.kv_width(); ++t) {
      for (int64_t head = 0; head < heads_.num_kv_heads; ++head) {
        const int64_t block = table[t / block_size_];
        const int64_t row = (block * heads_.num_kv_heads + head) * block_size_ + t % block_size_;
        std::copy_n(from.begin() + t * heads_.kv_width() + head * hd, hd, to.begin() + row * hd);
      }
    }
  }

  Heads heads_;
  int32_t block_size_;
  int32_t num_blocks_ = 0;
  std::vector<std::vector<int32_t>> tables_;
  std::unique_ptr<Tensor> k_, v_;
  KvCacheView view_;
};

/// Rows [begin, end) of sequence i.
struct Slice {
  size_t sequence;
  int32_t begin, end;
};

/// What a call of the op is about.
struct Scene {
  const Heads& heads;
  const std::vector<Sequence>& sequences;
  const Cache& cache;
  float scale = 0.3f;
};

/// One call of the op on some slices; returns the bytes of all output rows.
inline std::vector<uint8_t> Attend(Backend& backend, const Scene& scene,
                                   const std::vector<Slice>& slices,
                                   std::vector<float>* values = nullptr) {
  const Heads& h = scene.heads;
  std::vector<int32_t> row_begin = {0}, start, tables, block_begin = {0};
  std::vector<float> q;
  for (const Slice& s : slices) {
    const auto& all = scene.sequences[s.sequence].q;
    q.insert(q.end(), all.begin() + s.begin * h.q_width(), all.begin() + s.end * h.q_width());
    row_begin.push_back(row_begin.back() + s.end - s.begin);
    start.push_back(s.begin);
    const auto& table = scene.cache.table(s.sequence);
    tables.insert(tables.end(), table.begin(), table.end());
    block_begin.push_back(static_cast<int32_t>(tables.size()));
  }
  const DType dtype = backend.activation_dtype();
  const Tensor in(backend, dtype, h.q_width(), q);
  const Tensor out(backend, dtype, row_begin.back(), h.q_width());
  const AttentionBatch batch = {.row_begin = row_begin,
                                .start_position = start,
                                .block_tables = tables,
                                .block_begin = block_begin};
  backend.Attention({.q = in.view(),
                     .cache = scene.cache.view(),
                     .batch = &batch,
                     .num_heads = h.num_heads,
                     .num_kv_heads = h.num_kv_heads,
                     .head_dim = h.head_dim,
                     .scale = scene.scale,
                     .out = out.view()});
  if (values != nullptr) *values = out.values();
  return out.bytes();
}

}  // namespace moed::kernels
