#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/attention_inl.h"

/// Tiles of attention on AVX-512 BF16's dot product instruction: q, keys, p and values in bf16,
/// sums in f32. Internal linkage throughout.
///
/// A lane of a score is a key, a lane of an output is an element of the head. Both are chains of
/// dot products of pairs, over d or keys in ascending order. Whether the pairs come from packed
/// panels or straight from the cache changes no bit.
namespace moed::kernels::cpu {
namespace {

// Registers that hold a tile's scores, or 64 elements of an output, of one query vector.
constexpr int kTileVecs = kKeyTile / 16;

inline __m512bh AsPairs(__m512i v) { return reinterpret_cast<__m512bh>(v); }

/// Elements i and i + 1 of x in every lane.
inline __m512bh Broadcast(const uint16_t* x, int i) {
  int32_t pair;
  memcpy(&pair, x + i, sizeof(pair));
  return AsPairs(_mm512_set1_epi32(pair));
}

/// 2^x within 3e-6 of it for x <= 0 (and a little above); 0 below -64, NaN for NaN. A p is rounded
/// to bf16 anyway, and one so small counts for nothing beside the p = 1 of the largest score.
inline __m512 PowerOfTwo(__m512 x) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const __m512 shifted = _mm512_add_ps(x, magic);
  const __m512 r = _mm512_sub_ps(x, _mm512_sub_ps(shifted, magic));
  __m512 p = _mm512_set1_ps(9.582852945e-3f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.590642616e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(2.402409911e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(6.931241751e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.0f));
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-64.0f), _CMP_NLT_UQ);
  return _mm512_castsi512_ps(_mm512_maskz_add_epi32(counts, _mm512_castps_si512(p), exponent));
}

/// The largest lane, in all lanes.
inline __m512 MaxOfLanes(__m512 v) {
  v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
  v = _mm512_max_ps(v, _mm512_shuffle_f32x4(v, v, 0xb1));
  v = _mm512_max_ps(v, _mm512_permute_ps(v, 0x4e));
  return _mm512_max_ps(v, _mm512_permute_ps(v, 0xb1));
}

/// Pairs of elements [d, d + 32) of a row, zero from head_dim on.
inline __m512i LoadPairs(const uint16_t* row, int d, int head_dim) {
  const int pairs = (head_dim - d) / 2;
  const __mmask16 mask = pairs >= 16 ? 0xffff : (1u << (pairs > 0 ? pairs : 0)) - 1;
  return _mm512_maskz_loadu_epi32(mask, row + d);
}

/// Pairs [d / 2 + i] of 16 keys from number j on, in v[i]; fetches the same of `ahead`.
[[gnu::always_inline]] inline void LoadKeys(const KeyRows<uint16_t>& rows,
                                            const KeyRows<uint16_t>& ahead, int head_dim, int j,
                                            int d, __m512i* v) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    Prefetch(ahead.k, ahead.row[j + i], d);
    v[i] = LoadPairs(rows.k + rows.row[j + i], d, j + i < rows.num_keys ? head_dim : 0);
  }
  Transpose(v);
}

/// Of value rows a and b: a[i], b[i], a[i + 1], b[i + 1], ... for i from 0, and from 16.
alignas(64) constexpr uint16_t kInterleave[2][32] = {
    {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
     8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
    {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
     24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};

/// Elements [d, d + 32) of values j and j + 1 as pairs of the two; fetches the same of `ahead`.
[[gnu::always_inline]] inline void LoadValues(const KeyRows<uint16_t>& rows,
                                              const KeyRows<uint16_t>& ahead, int head_dim, int j,
                                              int d, __m512i* v) {
  Prefetch(ahead.v, ahead.row[j], d);
  Prefetch(ahead.v, ahead.row[j + 1], d);
  const __m512i a = LoadPairs(rows.v + rows.row[j], d, head_dim);
  const __m512i b = LoadPairs(rows.v + rows.row[j + 1], d, j + 1 < rows.num_keys ? head_dim : 0);
  v[0] = _mm512_permutex2var_epi16(a, _mm512_load_si512(kInterleave[0]), b);
  v[1] = _mm512_permutex2var_epi16(a, _mm512_load_si512(kInterleave[1]), b);
}

using Bf16Block = VectorBlock<uint16_t>;

/// acc[r][v] += pair i of x[r] . b[v] for R rows and the first V vectors.
template <int R, int V>
[[gnu::always_inline]] inline void DotPairs(const uint16_t* x, int64_t x_stride, int i,
                                            const __m512i* b, __m512 (*acc)[kTileVecs]) {
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512bh a = Broadcast(x + r * x_stride, i);
    for (int v = 0; v < V; ++v) acc[r][v] = _mm512_dpbf16_ps(acc[r][v], a, AsPairs(b[v]));
  }
}

/// Where the keys and values of a tile come from: packed panels,
struct PanelSource {
  static constexpr int kMaxVectors = 6;  // of 4 accumulators; 8 registers are left for operands

  const uint16_t* keys;    // [D / 2, 64, 2]
  const uint16_t* values;  // [ceil(D / 64)][32, 64, 2]

  // Vectors of an output that are accumulated at a time.
  template <int R>
  static constexpr int OutputVecs() {
    return kTileVecs;
  }

  template <int R>
  [[gnu::always_inline]] void Score(const Bf16Block& block, __m512 (*s)[kTileVecs]) const {
    if (block.Seen(R - 1) <= kKeyTile / 2) return ScoreKeys<R, kTileVecs / 2>(block, s);
    ScoreKeys<R, kTileVecs>(block, s);
  }

  /// acc += p [R, 64] . values of elements from d on
  template <int R>
  [[gnu::always_inline]] void Accumulate(const Bf16Block&, const uint16_t* p, int num_keys, int d,
                                         __m512 (*acc)[kTileVecs]) const {
    const uint16_t* panel = values + d * kKeyTile;
    for (int j = 0; j < num_keys; j += 2, panel += 2 * kPanelWidth) {
      __m512i b[kTileVecs];
      for (int v = 0; v < kTileVecs; ++v) b[v] = _mm512_loadu_si512(panel + 32 * v);
      DotPairs<R, kTileVecs>(p, kKeyTile, j, b, acc);
    }
  }

 private:
  template <int R, int V>
  [[gnu::always_inline]] void ScoreKeys(const Bf16Block& block, __m512 (*s)[kTileVecs]) const {
    const uint16_t* panel = keys;
    for (int d = 0; d < block.head_dim; d += 2, panel += 2 * kKeyTile) {
      __m512i b[V];
      for (int v = 0; v < V; ++v) b[v] = _mm512_loadu_si512(panel + 32 * v);
      DotPairs<R, V>(block.q, block.head_dim, d, b, s);
    }
  }
};

/// or the rows of the cache.
struct RowSource {
  static constexpr int kMaxVectors = 8;

  const KeyRows<uint16_t>& rows;
  const KeyRows<uint16_t>& ahead;

  template <int R>
  static constexpr int OutputVecs() {
    return R > 6 ? kTileVecs / 2 : kTileVecs;
  }

  template <int R>
  [[gnu::always_inline]] void Score(const Bf16Block& block, __m512 (*s)[kTileVecs]) const {
    for (int v = 0; v < kTileVecs; ++v) {
      __m512 acc[R];
      for (int r = 0; r < R; ++r) acc[r] = _mm512_setzero_ps();
      for (int d = 0; d < block.head_dim; d += 32) {
        __m512i keys[16];
        LoadKeys(rows, ahead, block.head_dim, 16 * v, d, keys);
        const int pairs = block.head_dim - d < 32 ? (block.head_dim - d) / 2 : 16;
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) {
          if (i >= pairs) break;
#pragma GCC unroll 8
          for (int r = 0; r < R; ++r) {
            const __m512bh a = Broadcast(block.q + r * block.head_dim, d + 2 * i);
            acc[r] = _mm512_dpbf16_ps(acc[r], a, AsPairs(keys[i]));
          }
        }
      }
      for (int r = 0; r < R; ++r) s[r][v] = acc[r];
    }
  }

  template <int R>
  [[gnu::always_inline]] void Accumulate(const Bf16Block& block, const uint16_t* p, int num_keys,
                                         int d, __m512 (*acc)[kTileVecs]) const {
    constexpr int kVecs = OutputVecs<R>();
    for (int j = 0; j < num_keys; j += 2) {
      __m512i b[kVecs];
      for (int v = 0; v < kVecs; v += 2) {
        LoadValues(rows, ahead, block.head_dim, j, d + 16 * v, b + v);
      }
      DotPairs<R, kVecs>(p, kKeyTile, j, b, acc);
    }
  }
};

/// Scales scores and takes those away that a vector does not see.
template <int R>
[[gnu::always_inline]] inline void ScaleAndMask(const Bf16Block& block, __m512 (*s)[kTileVecs]) {
  const __m512 scale = _mm512_set1_ps(block.scale * 1.44269504088896341f);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kTileVecs; ++v) s[r][v] = _mm512_mul_ps(s[r][v], scale);
  }
  if (block.Seen(0) == kKeyTile) return;
  const __m512 minus_infinity = _mm512_set1_ps(-__builtin_inff());
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const uint64_t seen = ~uint64_t{0} >> (kKeyTile - block.Seen(r));
    for (int v = 0; v < kTileVecs; ++v) {
      const __mmask16 mask = static_cast<__mmask16>(seen >> (16 * v));
      s[r][v] = _mm512_mask_mov_ps(minus_infinity, mask, s[r][v]);
    }
  }
}

/// Scores s -> p [R, 64] in bf16, and what the sums so far must be multiplied with [16].
template <int R>
[[gnu::always_inline]] inline void UpdateSoftmax(const Bf16Block& block, __m512 (*s)[kTileVecs],
                                                 uint16_t* p, float* factor) {
  ScaleAndMask<R>(block, s);
  constexpr __mmask16 kRows = (1u << R) - 1;
  const __m512 old_max = _mm512_maskz_loadu_ps(kRows, block.max);
  __m512 new_max = old_max;  // lane r is about vector r
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 best =
        MaxOfLanes(_mm512_max_ps(_mm512_max_ps(s[r][0], s[r][1]), _mm512_max_ps(s[r][2], s[r][3])));
    new_max = _mm512_mask_max_ps(new_max, static_cast<__mmask16>(1u << r), best, old_max);
  }
  _mm512_mask_storeu_ps(block.max, kRows, new_max);
  _mm512_store_ps(factor, PowerOfTwo(_mm512_sub_ps(old_max, new_max)));
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 max = _mm512_permutexvar_ps(_mm512_set1_epi32(r), new_max);
    for (int v = 0; v < kTileVecs; ++v) s[r][v] = PowerOfTwo(_mm512_sub_ps(s[r][v], max));
    const __m512 total =
        _mm512_add_ps(_mm512_add_ps(s[r][0], s[r][1]), _mm512_add_ps(s[r][2], s[r][3]));
    float* sum = block.sum + r * kLanes;
    _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(sum), _mm512_set1_ps(factor[r]), total));
    for (int v = 0; v < kTileVecs; v += 2) {
      const __m512bh both = _mm512_cvtne2ps_pbh(s[r][v + 1], s[r][v]);
      _mm512_storeu_si512(p + r * kKeyTile + 16 * v, reinterpret_cast<__m512i>(both));
    }
  }
}

/// Adds a tile to a block of R query vectors.
template <int R, typename Source>
void AddTile(const Bf16Block& block, const Source& source) {
  alignas(64) uint16_t p[R * kKeyTile];
  alignas(64) float factor[16];
  __m512 s[R][kTileVecs];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < kTileVecs; ++v) s[r][v] = _mm512_setzero_ps();
  }
  source.template Score<R>(block, s);
  UpdateSoftmax<R>(block, s, p, factor);
  const int most_keys = block.Seen(R - 1);
  constexpr int kVecs = Source::template OutputVecs<R>();
  for (int d = 0; d < block.width; d += 16 * kVecs) {
    float* out = block.acc + d;
    __m512 acc[R][kTileVecs];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVecs; ++v) {
        acc[r][v] = _mm512_mul_ps(_mm512_loadu_ps(out + r * block.width + 16 * v),
                                  _mm512_set1_ps(factor[r]));
      }
    }
    source.template Accumulate<R>(block, p, most_keys, d, acc);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < kVecs; ++v) {
        _mm512_storeu_ps(out + r * block.width + 16 * v, acc[r][v]);
      }
    }
  }
}

/// As AddTile, for block.count vectors.
template <int R, typename Source>
void AddTileOfHeight(const Bf16Block& block, const Source& source) {
  if (block.count == R) return AddTile<R>(block, source);
  if constexpr (R > 1) AddTileOfHeight<R - 1>(block, source);
}

/// For bf16 activations over a bf16 cache.
struct Bf16Tiles {
  using Elem = uint16_t;
  static constexpr int kMaxVectors = PanelSource::kMaxVectors;
  static constexpr int kMaxRowVectors = RowSource::kMaxVectors;

  static void LoadQuery(const uint16_t* q, int head_dim, uint16_t* out) {
    for (int d = 0; d < head_dim; d += 32) {
      const int pairs = (head_dim - d) / 2;
      const __mmask16 mask = pairs >= 16 ? 0xffff : (1u << pairs) - 1;
      _mm512_mask_storeu_epi32(out + d, mask, _mm512_maskz_loadu_epi32(mask, q + d));
    }
  }

  static void Pack(const KeyRows<uint16_t>& rows, const KeyRows<uint16_t>& ahead, int head_dim,
                   uint16_t* keys, uint16_t* values) {
    for (int j = 0; j < kKeyTile; j += 16) {
      for (int d = 0; d < head_dim; d += 32) {
        __m512i v[16];
        LoadKeys(rows, ahead, head_dim, j, d, v);
        for (int i = 0; i < 16; ++i) {
          if (d + 2 * i >= head_dim) break;
          _mm512_storeu_si512(keys + (d + 2 * i) * kKeyTile + 2 * j, v[i]);
        }
      }
    }
    for (int d = 0; d < head_dim; d += kPanelWidth, values += kKeyTile * kPanelWidth) {
      for (int j = 0; j < rows.num_keys; j += 2) {
        __m512i v[kTileVecs];
        LoadValues(rows, ahead, head_dim, j, d, v);
        LoadValues(rows, ahead, head_dim, j, d + 32, v + 2);
        for (int i = 0; i < kTileVecs; ++i) {
          _mm512_storeu_si512(values + j * kPanelWidth + 32 * i, v[i]);
        }
      }
    }
  }

  static void AddPanels(const VectorBlock<uint16_t>& block, const uint16_t* keys,
                        const uint16_t* values) {
    AddTileOfHeight<kMaxVectors>(block, PanelSource{keys, values});
  }

  static void AddRows(const VectorBlock<uint16_t>& block, const KeyRows<uint16_t>& rows,
                      const KeyRows<uint16_t>& ahead) {
    AddTileOfHeight<kMaxRowVectors>(block, RowSource{rows, ahead});
  }
};

}  // namespace
}  // namespace moed::kernels::cpu
