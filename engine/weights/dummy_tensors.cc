#include "engine/weights/dummy_tensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <numbers>
#include <utility>

namespace moed {
namespace {

constexpr uint16_t kBf16One = 0x3f80;
constexpr size_t kChunk = 4096;  // elements that share one key

// Steele, Lea, Flood 2014: the finaliser of SplitMix64.
uint64_t Mix64(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

// Wellons, "Prospecting for hash functions": lowbias32, with a key in its middle.
[[gnu::always_inline]] inline uint32_t KeyedMix32(uint32_t x, uint32_t key) {
  x = (x ^ (x >> 16)) * 0x7feb352d;
  x = (x ^ (x >> 15) ^ key) * 0x846ca68b;
  return x ^ (x >> 16);
}

uint64_t KeyOf(uint64_t seed, const std::string& name) {
  uint64_t key = Mix64(seed);
  for (const char c : name) key = Mix64(key ^ static_cast<unsigned char>(c));
  return key;
}

// The upper half is x as bf16, rounded to nearest.
[[gnu::always_inline]] inline uint32_t RoundToUpperHalf(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return bits + 0x7fff + ((bits >> 16) & 1);
}

using ChunkWords = std::array<uint32_t, kChunk / 2>;

// Two elements from each 32-bit hash, the lower half first; a plain loop that compilers vectorise.
[[gnu::always_inline]] inline void FillWords(uint64_t chunk_key, float scale, ChunkWords& out) {
  const auto low = static_cast<uint32_t>(chunk_key);
  const auto high = static_cast<uint32_t>(chunk_key >> 32);
  for (uint32_t i = 0; i < out.size(); ++i) {
    const uint32_t random = KeyedMix32(i ^ low, high);
    const auto first = static_cast<float>(static_cast<int32_t>(random << 16) >> 16);
    const auto second = static_cast<float>(static_cast<int32_t>(random) >> 16);
    out[i] =
        RoundToUpperHalf(first * scale) >> 16 | (RoundToUpperHalf(second * scale) & 0xffff0000);
  }
}

using FillChunkFunction = void (*)(uint64_t chunk_key, float scale, ChunkWords& out);

void FillChunk(uint64_t chunk_key, float scale, ChunkWords& out) {
  FillWords(chunk_key, scale, out);
}

#if defined(__x86_64__)
// The same values, three times as fast: SSE2 has no 32-bit multiplication.
[[gnu::target("avx2")]] void FillChunkAvx2(uint64_t chunk_key, float scale, ChunkWords& out) {
  FillWords(chunk_key, scale, out);
}
#endif

FillChunkFunction ChooseFillChunk() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return FillChunkAvx2;
#endif
  return FillChunk;
}

}  // namespace

void FillDummyValues(const DummyValuesParams& params, std::span<uint16_t> out) {
  // A 16-bit integer is uniform over 2^16 values, whose standard deviation is 2^16 / sqrt(12).
  const auto scale =
      static_cast<float>(params.standard_deviation * 2 * std::numbers::sqrt3 / 65536.0);
  const uint64_t key = KeyOf(params.seed, params.name);
  const FillChunkFunction fill_chunk = ChooseFillChunk();
  ChunkWords chunk;
  for (size_t done = 0; done < out.size();) {
    const uint64_t position = params.begin + done;
    const size_t skip = position % kChunk;
    const size_t count = std::min(kChunk - skip, out.size() - done);
    fill_chunk(Mix64(key + position / kChunk), scale, chunk);
    std::memcpy(out.data() + done, reinterpret_cast<const char*>(chunk.data()) + 2 * skip,
                2 * count);
    done += count;
  }
}

double DummyTensors::StandardDeviation(const MatrixRef& ref) const {
  const double per_fan_in = 1.0 / std::sqrt(static_cast<double>(ref.cols));
  switch (ref.role) {
    case WeightRole::kEmbedding:
      return 1.0 / embedding_multiplier_;
    case WeightRole::kNorm:
      return 0;
    case WeightRole::kBias:
      return 0.1;
    case WeightRole::kInput:
    case WeightRole::kRouter:
    case WeightRole::kHead:
      return per_fan_in;
    case WeightRole::kOutput:
      return 0.2 * per_fan_in;
  }
  return 0;
}

std::span<uint16_t> DummyTensors::Take(const MatrixRef& ref) {
  const auto size = static_cast<size_t>(ref.num_elements());
  const auto free = std::find_if(free_.begin(), free_.end(),
                                 [size](const Block& block) { return block.size == size; });
  if (free != free_.end()) {
    in_use_.push_back(std::move(*free));
    *free = std::move(free_.back());
    free_.pop_back();
  } else {
    // Not zeroed: a vocabulary's worth of memory is written once, not twice.
    in_use_.push_back(
        {.size = size,
         .comes_again = ref.role != WeightRole::kEmbedding && ref.role != WeightRole::kHead,
         .data = std::make_unique_for_overwrite<uint16_t[]>(size)});
  }
  return {in_use_.back().data.get(), size};
}

kernels::HostMatrix DummyTensors::Read(const MatrixRef& ref) {
  const std::span<uint16_t> out = Take(ref);
  if (ref.role == WeightRole::kNorm) {
    std::fill(out.begin(), out.end(), kBf16One);
  } else {
    FillDummyValues({.seed = seed_,
                     .name = ref.tensor,
                     .standard_deviation = StandardDeviation(ref),
                     .begin = static_cast<uint64_t>(ref.row_begin * ref.cols)},
                    out);
  }
  return {.data = out.data(), .dtype = DType::kBF16, .rows = ref.rows, .cols = ref.cols};
}

int64_t DummyTensors::SizeBytes(const MatrixRef& ref) const {
  return ref.num_elements() * static_cast<int64_t>(sizeof(uint16_t));
}

void DummyTensors::Release() {
  for (Block& block : in_use_) {
    if (block.comes_again) free_.push_back(std::move(block));
  }
  in_use_.clear();
}

}  // namespace moed
