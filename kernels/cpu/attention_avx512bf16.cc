#include "kernels/cpu/simd_avx512.h"
//
#include "kernels/cpu/attention_inl.h"
#include "kernels/cpu/bf16_tile_avx512bf16.h"

namespace moed::kernels::cpu {
namespace {

/// Query vectors, probabilities and tiles in bf16, for bf16 activations over a bf16 cache: panels
/// of pairs, as PackedPanels.
struct Bf16Tiles {
  using Elem = uint16_t;

  static Elem FromFloat(float x) {  // x came from a bf16
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return static_cast<Elem>(bits >> 16);
  }

  static void PackKeys(const uint16_t* const* keys, int num_keys, int head_dim, Elem* panel) {
    const __m512i zero = _mm512_setzero_si512();
    for (int j = 0; j < kKeyTile; j += 16) {
      for (int d = 0; d < head_dim; d += 32) {
        const int pairs = head_dim - d < 32 ? (head_dim - d) / 2 : 16;
        const __mmask16 mask = static_cast<__mmask16>((1u << pairs) - 1);
        __m512i rows[16];
        for (int i = 0; i < 16; ++i) {
          rows[i] = j + i < num_keys ? _mm512_maskz_loadu_epi32(mask, keys[j + i] + d) : zero;
        }
        Transpose16(rows);
        for (int i = 0; i < pairs; ++i) {
          _mm512_storeu_si512(panel + (d + 2 * i) * kPanelWidth + 2 * j, rows[i]);
        }
      }
    }
  }

  static void PackValues(const uint16_t* const* values, int num_keys, int head_dim, Elem* panels) {
    const __m512i first_half = PairIndices(0), second_half = PairIndices(16);
    for (int begin = 0; begin < head_dim; begin += kPanelWidth, panels += kKeyTile * kPanelWidth) {
      for (int j = 0; j < num_keys; j += 2) {
        for (int d = 0; d < kPanelWidth; d += 32) {
          const __m512i a = LoadFirst32(values[j], begin + d, head_dim);
          const __m512i b = j + 1 < num_keys ? LoadFirst32(values[j + 1], begin + d, head_dim)
                                             : _mm512_setzero_si512();
          Elem* out = panels + j * kPanelWidth + 2 * d;
          _mm512_storeu_si512(out, _mm512_permutex2var_epi16(a, first_half, b));
          _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi16(a, second_half, b));
        }
      }
    }
  }

  static void PackProbabilities(const float* p, Elem* out) {
    for (int j = 0; j < kKeyTile; j += kLanes) Store(out + j, Load(p + j));
  }

  static int PaddedKeys(int num_keys) { return (num_keys + 1) / 2 * 2; }

 private:
  /// Of two rows a and b: a[from], b[from], a[from + 1], b[from + 1], ...
  static __m512i PairIndices(int from) {
    alignas(64) uint16_t indices[32];
    for (int i = 0; i < 16; ++i) {
      indices[2 * i] = static_cast<uint16_t>(from + i);
      indices[2 * i + 1] = static_cast<uint16_t>(32 + from + i);
    }
    return _mm512_load_si512(indices);
  }

  /// Elements [d, d + 32) of a row, zero from head_dim on.
  static __m512i LoadFirst32(const uint16_t* row, int d, int head_dim) {
    const int n = head_dim - d;
    if (n <= 0) return _mm512_setzero_si512();
    const __mmask32 mask = n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1;
    return _mm512_maskz_loadu_epi16(mask, row + d);
  }

  /// rows[i] lane j <-> rows[j] lane i.
  static void Transpose16(__m512i* rows) {
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i += 2) {
      a[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
      a[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
      b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
      b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
      b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
      b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    for (int i = 0; i < 4; ++i) {
      a[i] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0x88);
      a[i + 4] = _mm512_shuffle_i32x4(b[i], b[i + 4], 0xdd);
      a[i + 8] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0x88);
      a[i + 12] = _mm512_shuffle_i32x4(b[i + 8], b[i + 12], 0xdd);
    }
    for (int i = 0; i < 8; ++i) {
      rows[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
      rows[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xdd);
    }
  }
};

}  // namespace

const AttentionKernels kAttentionAvx512Bf16 = {
    .bf16_bf16 = RunAttention<Bf16Tile, Bf16Tiles, uint16_t, uint16_t>,
    .bf16_f32 = RunAttention<VectorTile, FloatTiles, uint16_t, float>,
    .f32_bf16 = RunAttention<VectorTile, FloatTiles, float, uint16_t>,
    .f32_f32 = RunAttention<VectorTile, FloatTiles, float, float>,
};

}  // namespace moed::kernels::cpu
