#include <algorithm>
#include <numeric>

#include "tests/kernels/attention_scene.h"

namespace moed::kernels {
namespace {

/// Causal attention in double; out [length, q_width].
std::vector<float> Reference(const Heads& h, const Sequence& s, float scale) {
  std::vector<float> out(s.length * h.q_width());
  const int32_t group = h.num_heads / h.num_kv_heads;
  for (int32_t t = 0; t < s.length; ++t) {
    for (int32_t head = 0; head < h.num_heads; ++head) {
      const float* q = &s.q[t * h.q_width() + head * h.head_dim];
      std::vector<double> p(t + 1), sum(h.head_dim, 0.0);
      const int64_t kv = (head / group) * int64_t{h.head_dim};
      for (int32_t j = 0; j <= t; ++j) {
        for (int32_t d = 0; d < h.head_dim; ++d) p[j] += q[d] * s.k[j * h.kv_width() + kv + d];
        p[j] *= scale;
      }
      const double max = *std::max_element(p.begin(), p.end());
      double total = 0;
      for (int32_t j = 0; j <= t; ++j) {
        total += p[j] = std::exp(p[j] - max);
        for (int32_t d = 0; d < h.head_dim; ++d) sum[d] += p[j] * s.v[j * h.kv_width() + kv + d];
      }
      for (int32_t d = 0; d < h.head_dim; ++d) {
        out[t * h.q_width() + head * h.head_dim + d] = static_cast<float>(sum[d] / total);
      }
    }
  }
  return out;
}

class AttentionTest : public testing::TestWithParam<OpConfig> {
 protected:
  DType dtype() const { return GetParam().dtype; }
  std::unique_ptr<Backend> backend_ = MakeBackend(GetParam());
};

INSTANTIATE_TEST_SUITE_P(All, AttentionTest, testing::ValuesIn(AllConfigs()), ConfigName);

constexpr int32_t kLongest = MOED_SANITIZED ? 80 : 150;
const Heads kHeads[] = {{4, 2, 24}, {3, 3, 64}, {8, 1, 16}, {2, 2, 2}, {4, 2, 128}, {1, 1, 80}};

TEST_P(AttentionTest, MatchesTheReferenceForEveryShapeAndCacheFormat) {
  for (const Heads& h : kHeads) {
    for (DType cache_dtype : {DType::kBF16, DType::kF32}) {
      const std::vector<Sequence> sequences = {MakeSequence(h, 1, 1, dtype()),
                                               MakeSequence(h, 65, 11, dtype()),
                                               MakeSequence(h, kLongest, 21, dtype())};
      const float scale = 1.0f / std::sqrt(static_cast<float>(h.head_dim));
      const Cache cache(*backend_, h, sequences, cache_dtype, 16);
      std::vector<float> got, expected;
      Attend(*backend_, {h, sequences, cache, scale}, {{0, 0, 1}, {1, 0, 65}, {2, 0, kLongest}},
             &got);
      for (const Sequence& s : sequences) {
        const auto one = Reference(h, s, scale);
        expected.insert(expected.end(), one.begin(), one.end());
      }
      ExpectClose(got, expected, ToleranceOf(dtype()).activation_output,
                  "attention with head_dim " + std::to_string(h.head_dim));
    }
  }
}

/// All rows of all sequences in order of sequence, computed in slices of at most `chunk` rows, as
/// many sequences per call as there are.
std::vector<std::vector<uint8_t>> AttendInChunks(Backend& backend, const Heads& h,
                                                 const std::vector<Sequence>& sequences,
                                                 const Cache& cache, int32_t chunk) {
  std::vector<std::vector<uint8_t>> outputs(sequences.size());
  const int64_t row_bytes =
      h.q_width() * static_cast<int64_t>(SizeBytes(backend.activation_dtype()));
  for (int32_t begin = 0;; begin += chunk) {
    std::vector<Slice> slices;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const int32_t end = std::min(begin + chunk, sequences[i].length);
      if (begin < end) slices.push_back({i, begin, end});
    }
    if (slices.empty()) return outputs;
    const auto bytes = Attend(backend, {h, sequences, cache}, slices);
    auto at = bytes.begin();
    for (const Slice& s : slices) {
      const int64_t n = (s.end - s.begin) * row_bytes;
      outputs[s.sequence].insert(outputs[s.sequence].end(), at, at + n);
      at += n;
    }
  }
}

TEST_P(AttentionTest, ChunksBlockSizesBatchesAndThreadsChangeNoBit) {
  const Heads h = {6, 2, 24};
  const std::vector<Sequence> both = {MakeSequence(h, 131, 1, dtype()),
                                      MakeSequence(h, 70, 11, dtype())};
  const std::vector<Sequence> first = {both[0]};
  std::vector<std::vector<uint8_t>> expected;
  for (int threads : ThreadCounts(GetParam())) {
    if (MOED_SANITIZED && threads == 2) continue;
    const auto backend = MakeBackend(GetParam(), threads);
    for (int32_t block_size : {8, 16, 32, 7, 128}) {
      if (MOED_SANITIZED && block_size > 8) continue;
      if (GetParam().device != "cpu" && (block_size == 16 || block_size == 32)) continue;
      const Cache cache(*backend, h, both, DType::kBF16, block_size);
      for (int32_t chunk : {1000, 64, 7, 1}) {
        const auto got = AttendInChunks(*backend, h, both, cache, chunk);
        if (expected.empty()) expected = got;
        ASSERT_EQ(got, expected) << "chunk " << chunk << ", block size " << block_size;
      }
      const Cache alone(*backend, h, first, DType::kBF16, block_size);
      ASSERT_EQ(AttendInChunks(*backend, h, first, alone, 1000)[0], expected[0]);
    }
  }
}

/// A slice of many rows may go through other code than one of a few.
TEST_P(AttentionTest, HowManyRowsAreComputedTogetherChangesNoBitOfAnyShape) {
  const int32_t length = MOED_SANITIZED ? 70 : 140;
  for (const Heads& h : {Heads{8, 1, 64}, Heads{2, 2, 128}, Heads{6, 1, 80}, Heads{4, 2, 24}}) {
    if (GetParam().device != "cpu" && h.head_dim != 24) continue;  // emulated ones are slow
    std::vector<Sequence> sequences = {MakeSequence(h, length, 1, dtype())};
    for (size_t i = 0; i < sequences[0].q.size(); i += 3) sequences[0].q[i] *= 32;
    for (DType cache_dtype : {DType::kBF16, DType::kF32}) {
      const Cache cache(*backend_, h, sequences, cache_dtype, 16);
      const auto expected = AttendInChunks(*backend_, h, sequences, cache, length);
      for (int32_t chunk : {1, 2, 3, 11, 66}) {
        ASSERT_EQ(AttendInChunks(*backend_, h, sequences, cache, chunk), expected)
            << "chunk " << chunk << ", head_dim " << h.head_dim;
      }
    }
  }
}

/// Single rows whose block tables begin alike, of ragged lengths, among a longer slice and a
/// sequence that shares nothing.
std::vector<Slice> SlicesThatShareBlocks(int32_t step) {
  // Rows of one sequence share all blocks. Sequence 4 shares none.
  std::vector<Slice> slices = {{1, 202, 203}, {4, 10, 40}, {0, 199, 200}, {2, 205, 206},
                               {3, 140, 141}, {0, 64, 65}, {0, 63, 64},   {3, 208, 209},
                               {4, 211, 212}, {0, 64, 65}, {0, 0, 1},     {2, 64, 66}};
  for (int32_t row = 130; row < 200; row += step) slices.push_back({0, row, row + 1});
  return slices;
}

void ExpectTheBitsOfEachSliceAlone(Backend& backend, const Scene& scene,
                                   const std::vector<Slice>& slices) {
  const auto together = Attend(backend, scene, slices);
  auto at = together.begin();
  for (const Slice& s : slices) {
    const auto alone = Attend(backend, scene, {s});
    ASSERT_TRUE(std::equal(alone.begin(), alone.end(), at))
        << "sequence " << s.sequence << ", row " << s.begin << ", head_dim " << scene.heads.head_dim
        << ", blocks of " << scene.cache.view().block_size;
    at += static_cast<int64_t>(alone.size());
  }
}

TEST_P(AttentionTest, RowsThatShareBlocksGetTheBitsThatTheyGetAlone) {
  const bool cpu = GetParam().device == "cpu";
  const auto slices = SlicesThatShareBlocks(cpu && !MOED_SANITIZED ? 1 : 16);
  for (const Heads& h : {Heads{4, 2, 24}, Heads{8, 1, 64}, Heads{2, 2, 128}, Heads{6, 1, 80}}) {
    if (!cpu && h.head_dim != 24) continue;  // emulated ones are slow
    std::vector<Sequence> sequences;
    for (int32_t i = 0; i < 5; ++i) {
      sequences.push_back(MakeSequence(h, 200 + 3 * i, 10 * static_cast<uint32_t>(i), dtype()));
    }
    for (int threads : ThreadCounts(GetParam())) {
      const auto backend = MakeBackend(GetParam(), threads);
      for (int32_t block_size : {16, 7}) {
        if (!cpu && block_size == 7) continue;
        const DType cache_dtype = block_size == 16 ? DType::kBF16 : DType::kF32;
        Cache cache(*backend, h, sequences, cache_dtype, block_size);
        cache.ShareBlocks(0, 1, 144);  // two tiles and a part of one
        cache.ShareBlocks(0, 2, 70);   // one tile
        cache.ShareBlocks(0, 3, 196);  // three tiles
        ExpectTheBitsOfEachSliceAlone(*backend, {h, sequences, cache}, slices);
      }
    }
  }
}

TEST_P(AttentionTest, LongContextsMatchTheReferenceAndTheirCompanyChangesNoBit) {
  const Heads h = {2, 1, 16};
  const int32_t length = 600;
  std::vector<Sequence> sequences;
  for (uint32_t i = 0; i < 12; ++i) {
    sequences.push_back(MakeSequence(h, i == 0 ? length : 300, 10 * i + 1, dtype()));
  }
  const Cache cache(*backend_, h, sequences, DType::kBF16, 16);
  const Scene scene = {h, sequences, cache};
  std::vector<float> got;
  const auto all = Attend(*backend_, scene, {{0, 0, length}}, &got);
  ExpectClose(got, Reference(h, sequences[0], scene.scale), ToleranceOf(dtype()).activation_output,
              "attention over a long context");
  std::vector<Slice> company;
  for (size_t i = 1; i < sequences.size(); ++i) company.push_back({i, 299, 300});
  for (int32_t row : {0, 255, 256, 511, 512, 599}) {
    company.push_back({0, row, row + 1});
    const auto alone = Attend(*backend_, scene, {{0, row, row + 1}});
    const auto together = Attend(*backend_, scene, company);
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), together.end() - alone.size())) << row;
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + row * alone.size())) << row;
    company.pop_back();
  }
}

TEST_P(AttentionTest, NoRowsAreNoWork) {
  const Heads h = {2, 1, 8};
  const std::vector<Sequence> sequences = {MakeSequence(h, 4, 1, dtype())};
  const Cache cache(*backend_, h, sequences, DType::kBF16, 4);
  EXPECT_TRUE(Attend(*backend_, {h, sequences, cache}, {}).empty());
  EXPECT_TRUE(Attend(*backend_, {h, sequences, cache}, {{0, 2, 2}}).empty());
}

TEST_P(AttentionTest, LargeScoresDoNotOverflow) {
  const Heads h = {1, 1, 8};
  std::vector<Sequence> sequences = {MakeSequence(h, 100, 1, dtype())};
  for (float& x : sequences[0].q) x *= 64;
  const Cache cache(*backend_, h, sequences, DType::kBF16, 16);
  std::vector<float> got;
  Attend(*backend_, {h, sequences, cache, 1.0f}, {{0, 0, 100}}, &got);
  ExpectClose(got, Reference(h, sequences[0], 1.0f), 10 * ToleranceOf(dtype()).activation_output,
              "attention with scores of some hundreds");
}

// ---- PrepareQkv ----

struct QkvCase {
  Heads heads;
  QkNorm norm;
  float clip;
};

float RmsScale(const float* x, int64_t n, float eps) {
  double square = 0;
  for (int64_t i = 0; i < n; ++i) square += static_cast<double>(x[i]) * x[i];
  return static_cast<float>(1.0 / std::sqrt(square / static_cast<double>(n) + eps));
}

struct TokenTables {
  const float *cos, *sin;  // [head_dim / 2]
};

/// Norm, clip and rotation of num_heads heads of one token, as params.h says.
void ReferenceHeads(const QkvCase& c, const std::vector<float>& weight, const TokenTables& tables,
                    int32_t num_heads, float* x) {
  const auto [cos, sin] = tables;
  const int64_t hd = c.heads.head_dim, n = num_heads * hd;
  if (c.norm != QkNorm::kNone) {
    const int64_t width = c.norm == QkNorm::kFull ? n : hd;
    for (int64_t i = 0; i < n; i += width) {
      const float scale = RmsScale(x + i, width, 1e-5f);
      for (int64_t j = 0; j < width; ++j) x[i + j] *= scale * weight[j];
    }
  }
  for (int64_t i = 0; i < n && c.clip > 0; ++i) x[i] = std::clamp(x[i], -c.clip, c.clip);
  for (int64_t i = 0; i < n; i += hd) {
    for (int64_t j = 0; j < hd / 2; ++j) {
      const float a = x[i + j], b = x[i + j + hd / 2];
      x[i + j] = a * cos[j] - b * sin[j];
      x[i + j + hd / 2] = b * cos[j] + a * sin[j];
    }
  }
}

struct QkvOutputs {
  std::vector<float> q, k, v;  // k and v are whole caches
};

/// Runs the op on `rows` tokens at positions 5, 6, ... and slots 3, 10, 17, ... of blocks of 4.
QkvOutputs Prepare(Backend& backend, const QkvCase& c, const std::vector<float>& qkv, int64_t rows,
                   DType cache_dtype) {
  const Heads& h = c.heads;
  const int64_t half = h.head_dim / 2, max_positions = 5 + rows, num_blocks = 7 * rows / 4 + 2;
  const auto cos = RandomValues(max_positions * half, 50, DType::kF32);
  const auto sin = RandomValues(max_positions * half, 51, DType::kF32);
  const auto q_norm = RandomValues(h.q_width(), 52, DType::kF32);
  const auto k_norm = RandomValues(h.kv_width(), 53, DType::kF32);
  std::vector<int32_t> positions(rows), slots(rows);
  for (int64_t i = 0; i < rows; ++i) {
    positions[i] = static_cast<int32_t>(5 + i);
    slots[i] = static_cast<int32_t>(3 + 7 * i);
  }
  const IntArray device_positions(backend, positions), device_slots(backend, slots);
  const Tensor in(backend, DType::kF32, h.q_width() + 2 * h.kv_width(), qkv);
  const Tensor cos_table(backend, DType::kF32, half, cos),
      sin_table(backend, DType::kF32, half, sin);
  const Tensor q_weight(backend, DType::kF32, h.q_width(), q_norm);
  const Tensor k_weight(backend, DType::kF32, h.kv_width(), k_norm);
  const Tensor k(backend, cache_dtype, num_blocks * h.num_kv_heads * 4, h.head_dim);
  const Tensor v(backend, cache_dtype, num_blocks * h.num_kv_heads * 4, h.head_dim);
  const Tensor q(backend, backend.activation_dtype(), rows, h.q_width());
  backend.PrepareQkv({.qkv = in.view(),
                      .positions = device_positions.data(),
                      .slots = device_slots.data(),
                      .num_heads = h.num_heads,
                      .num_kv_heads = h.num_kv_heads,
                      .head_dim = h.head_dim,
                      .qk_norm = c.norm,
                      .q_norm = q_weight.data<float>(),
                      .k_norm = k_weight.data<float>(),
                      .norm_eps = 1e-5f,
                      .clip_qkv = c.clip,
                      .rope_cos = cos_table.data<float>(),
                      .rope_sin = sin_table.data<float>(),
                      .q_out = q.view()},
                     {.k = k.data<void>(),
                      .v = v.data<void>(),
                      .dtype = cache_dtype,
                      .num_blocks = num_blocks,
                      .block_size = 4});
  return {q.values(), k.values(), v.values()};
}

const QkvCase kQkvCases[] = {
    {{4, 2, 24}, QkNorm::kNone, 0},      {{4, 2, 24}, QkNorm::kPerHead, 0},
    {{2, 2, 64}, QkNorm::kFull, 0.7f},   {{3, 1, 10}, QkNorm::kFull, 0},
    {{1, 1, 2}, QkNorm::kPerHead, 0.5f}, {{6, 3, 128}, QkNorm::kNone, 0.3f}};

TEST_P(AttentionTest, PrepareQkvMatchesTheReferenceAndTouchesItsSlotsOnly) {
  for (const QkvCase& c : kQkvCases) {
    for (DType cache_dtype : {DType::kBF16, DType::kF32}) {
      const Heads& h = c.heads;
      const int64_t rows = 9, width = h.q_width() + 2 * h.kv_width(), half = h.head_dim / 2;
      auto qkv = RandomValues(rows * width, 1, DType::kF32);
      const QkvOutputs got = Prepare(*backend_, c, qkv, rows, cache_dtype);
      const auto cos = RandomValues((5 + rows) * half, 50, DType::kF32);
      const auto sin = RandomValues((5 + rows) * half, 51, DType::kF32);
      const auto q_norm = RandomValues(h.q_width(), 52, DType::kF32);
      const auto k_norm = RandomValues(h.kv_width(), 53, DType::kF32);
      std::vector<float> q, k(got.k.size(), NAN), v(got.v.size(), NAN);
      for (int64_t t = 0; t < rows; ++t) {
        float* x = &qkv[t * width];
        const TokenTables tables = {&cos[(5 + t) * half], &sin[(5 + t) * half]};
        ReferenceHeads(c, q_norm, tables, h.num_heads, x);
        ReferenceHeads(c, k_norm, tables, h.num_kv_heads, x + h.q_width());
        q.insert(q.end(), x, x + h.q_width());
        for (int64_t i = 0; i < h.kv_width(); ++i) {
          const int64_t slot = 3 + 7 * t, head = i / h.head_dim;
          const int64_t row = (slot / 4 * h.num_kv_heads + head) * 4 + slot % 4;
          float value = x[h.q_width() + h.kv_width() + i];
          if (c.clip > 0) value = std::clamp(value, -c.clip, c.clip);
          k[row * h.head_dim + i % h.head_dim] = x[h.q_width() + i];
          v[row * h.head_dim + i % h.head_dim] = value;
        }
      }
      ExpectClose(got.q, q, ToleranceOf(dtype()).activation_output, "q");
      const float tolerance = ToleranceOf(cache_dtype).activation_output;
      for (size_t i = 0; i < k.size(); ++i) {
        ASSERT_EQ(std::isnan(k[i]), std::isnan(got.k[i])) << "slot row " << i / h.head_dim;
        if (std::isnan(k[i])) continue;
        ASSERT_NEAR(got.k[i], k[i], tolerance * (std::abs(k[i]) + 1));
        ASSERT_NEAR(got.v[i], v[i], tolerance * (std::abs(v[i]) + 1));
      }
    }
  }
}

TEST_P(AttentionTest, ATokenIsPreparedWithTheSameBitsInEveryCompany) {
  const QkvCase c = {{4, 2, 24}, QkNorm::kFull, 0.9f};
  const int64_t width = c.heads.q_width() + 2 * c.heads.kv_width();
  const auto qkv = RandomValues(300 * width, 1, DType::kF32);
  const std::vector<float> first(qkv.begin(), qkv.begin() + width);
  const QkvOutputs alone = Prepare(*backend_, c, first, 1, DType::kBF16);
  const auto backend = MakeBackend(GetParam(), 2);
  const QkvOutputs many = Prepare(*backend, c, qkv, 300, DType::kBF16);
  EXPECT_TRUE(std::equal(alone.q.begin(), alone.q.end(), many.q.begin()));
  // Slot 3 is the last of block 0, in each head.
  for (int64_t head = 0; head < c.heads.num_kv_heads; ++head) {
    const int64_t at = (head * 4 + 3) * c.heads.head_dim;
    EXPECT_TRUE(std::equal(alone.k.begin() + at, alone.k.begin() + at + c.heads.head_dim,
                           many.k.begin() + at));
  }
}

}  // namespace
}  // namespace moed::kernels
