#include <algorithm>
#include <cfloat>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/sampling.h"

/// ChooseToken of kernels/sampling_math.h, one block per row. Sums that decide something are sums
/// of integers (a weight in units of 2^-40), so that no order of threads can change a choice; a
/// token less than 2^-40 times as likely as the likeliest is never drawn.
namespace moed::kernels::cuda {
namespace {

constexpr int kBins = 256;
constexpr int kMaxThreads = 1024;

struct Choice {
  float value;
  int32_t id;
};

/// Shared memory of a block.
struct SampleShared {
  Choice choices[kWarpSize];
  double sums[kWarpSize];
  unsigned long long integer_sums[kWarpSize];
  unsigned long long histogram[kBins];
  unsigned long long above;  // what lies above the chosen bin
  int32_t bin;
  int32_t id;
};

__device__ float SafeLogit(float x) { return x != x ? -INFINITY : fminf(x, FLT_MAX); }

__device__ bool ComesBefore(const Choice& a, const Choice& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

__device__ int Thread() { return static_cast<int>(threadIdx.x); }
__device__ int NumThreads() { return static_cast<int>(blockDim.x); }

/// Of n values made safe, the best that comes after `last`; larger values, then lower ids first.
__device__ Choice BlockNextBest(const float* values, int n, const Choice& last, SampleShared& s) {
  Choice best = {-INFINITY, n};
  for (int i = Thread(); i < n; i += NumThreads()) {
    const Choice choice = {SafeLogit(values[i]), i};
    if (ComesBefore(last, choice) && ComesBefore(choice, best)) best = choice;
  }
  for (int offset = kWarpSize / 2; offset > 0; offset /= 2) {
    const Choice other = {__shfl_xor_sync(kAllLanes, best.value, offset),
                          __shfl_xor_sync(kAllLanes, best.id, offset)};
    if (ComesBefore(other, best)) best = other;
  }
  if (Thread() % kWarpSize == 0) s.choices[Thread() / kWarpSize] = best;
  __syncthreads();
  best = s.choices[0];
  for (int i = 1; i < NumThreads() / kWarpSize; ++i) {
    if (ComesBefore(s.choices[i], best)) best = s.choices[i];
  }
  __syncthreads();
  return best;
}

/// The sum over a warp up to and with this lane.
__device__ unsigned long long WarpPrefixSum(unsigned long long x) {
  for (int offset = 1; offset < kWarpSize; offset *= 2) {
    const unsigned long long other = __shfl_up_sync(kAllLanes, x, offset);
    if (Thread() % kWarpSize >= offset) x += other;
  }
  return x;
}

struct Prefix {
  unsigned long long before;  // of the threads before this one
  unsigned long long total;
};

__device__ Prefix BlockPrefixSum(unsigned long long x, SampleShared& s) {
  const unsigned long long inclusive = WarpPrefixSum(x);
  const int warp = Thread() / kWarpSize;
  if (Thread() % kWarpSize == kWarpSize - 1) s.integer_sums[warp] = inclusive;
  __syncthreads();
  Prefix prefix = {inclusive - x, 0};
  for (int i = 0; i < NumThreads() / kWarpSize; ++i) {
    if (i < warp) prefix.before += s.integer_sums[i];
    prefix.total += s.integer_sums[i];
  }
  __syncthreads();
  return prefix;
}

/// Unsigned integers in the order of the floats.
__device__ uint32_t KeyOf(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ unsigned long long Quantize(float weight) {
  return static_cast<unsigned long long>(weight * 0x1p40f);
}

struct CountOne {
  __device__ unsigned long long operator()(float) const { return 1; }
};
struct CountWeight {
  __device__ unsigned long long operator()(float weight) const { return Quantize(weight); }
};

/// By the first warp: the highest bin at which the sum from the top reaches `needed`.
__device__ void ChooseBin(unsigned long long needed, SampleShared& s) {
  if (Thread() >= kWarpSize) return;
  constexpr int kBinsPerLane = kBins / kWarpSize;
  const int top = kBins - 1 - Thread() * kBinsPerLane;
  unsigned long long sum = 0;
  for (int i = 0; i < kBinsPerLane; ++i) sum += s.histogram[top - i];
  unsigned long long above = WarpPrefixSum(sum) - sum;
  if (above >= needed || above + sum < needed) return;
  int bin = top;
  for (; above + s.histogram[bin] < needed; --bin) above += s.histogram[bin];
  s.bin = bin;
  s.above = above;
}

/// Where a selection of the largest values ends.
struct Threshold {
  uint32_t key;              // of the last value that is selected
  unsigned long long above;  // measure of all that is larger
};

/// The fewest, largest values whose measures sum to `needed`, which is at least 1 and at most the
/// sum of all: a byte of the key at a time.
template <typename Measure>
__device__ Threshold FindThreshold(const float* values, int n, unsigned long long needed,
                                   Measure measure, SampleShared& s) {
  Threshold found = {0, 0};
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (int i = Thread(); i < kBins; i += NumThreads()) s.histogram[i] = 0;
    __syncthreads();
    for (int i = Thread(); i < n; i += NumThreads()) {
      const uint32_t key = KeyOf(values[i]);
      const bool is_candidate = shift == 24 || key >> (shift + 8) == found.key >> (shift + 8);
      if (is_candidate) atomicAdd(&s.histogram[key >> shift & 255u], measure(values[i]));
    }
    __syncthreads();
    ChooseBin(needed - found.above, s);
    __syncthreads();
    found.key |= static_cast<uint32_t>(s.bin) << shift;
    found.above += s.above;
    __syncthreads();
  }
  return found;
}

/// A thread's share of [0, n) where order matters: neighbours.
struct Share {
  int begin, end;
};
__device__ Share ShareOf(int n) {
  const int each = (n + NumThreads() - 1) / NumThreads();
  const int begin = min(Thread() * each, n);
  return {begin, min(begin + each, n)};
}

/// Replaces all values below the threshold, and those at it but for the first `ties` by id.
__device__ void Cut(float* values, int n, uint32_t key, unsigned long long ties, float replacement,
                    SampleShared& s) {
  const Share share = ShareOf(n);
  unsigned long long count = 0;
  for (int i = share.begin; i < share.end; ++i) count += KeyOf(values[i]) == key;
  unsigned long long before = BlockPrefixSum(count, s).before;
  for (int i = share.begin; i < share.end; ++i) {
    const uint32_t k = KeyOf(values[i]);
    if (k < key || (k == key && before++ >= ties)) values[i] = replacement;
  }
  __syncthreads();
}

struct Row {
  const SampleArrays& a;
  const SampleRequest& request;
  const float* logits;  // [n] as they came
  float* weights;       // [n] scratch
  int n;
};

/// weights = the logits that are allowed and not banned, else -infinity.
__device__ void Mask(const Row& row) {
  const SampleRequest& r = row.request;
  for (int i = Thread(); i < row.n; i += NumThreads()) {
    row.weights[i] = r.allowed.count > 0 ? -INFINITY : SafeLogit(row.logits[i]);
  }
  __syncthreads();
  for (int i = Thread(); i < r.allowed.count; i += NumThreads()) {
    const int id = row.a.ids[r.allowed.begin + i];
    if (id >= 0 && id < row.n) row.weights[id] = SafeLogit(row.logits[id]);
  }
  __syncthreads();
  for (int i = Thread(); i < r.banned.count; i += NumThreads()) {
    const int id = row.a.ids[r.banned.begin + i];
    if (id >= 0 && id < row.n) row.weights[id] = -INFINITY;
  }
  __syncthreads();
}

/// Bias and penalties. Each id belongs to one thread, which applies the lists in their order.
__device__ void Penalize(const Row& row) {
  const SampleRequest& r = row.request;
  for (int i = 0; i < r.bias.count + r.counted.count; ++i) {
    const bool is_bias = i < r.bias.count;
    const int at = is_bias ? r.bias.begin + i : r.counted.begin + i - r.bias.count;
    const int id = row.a.ids[at];
    if (id < 0 || id >= row.n || id % NumThreads() != Thread()) continue;
    float x = row.weights[id];
    if (x == -INFINITY) continue;
    const float value = row.a.values[at];
    if (is_bias) {
      x += value;
    } else {
      x = x > 0 ? x / r.repetition_penalty : x * r.repetition_penalty;
      if (value > 0) x -= r.presence_penalty + r.frequency_penalty * value;
    }
    row.weights[id] = x;
  }
  __syncthreads();
  for (int i = Thread(); i < row.n; i += NumThreads()) row.weights[i] = SafeLogit(row.weights[i]);
  __syncthreads();
}

/// The lowest id that is allowed and not banned, or 0.
__device__ int32_t LowestPermitted(const Row& row, SampleShared& s) {
  const SampleRequest& r = row.request;
  for (int i = Thread(); i < row.n; i += NumThreads()) {
    row.weights[i] = r.allowed.count > 0 ? 0.0f : 1.0f;
  }
  __syncthreads();
  for (int i = Thread(); i < r.allowed.count; i += NumThreads()) {
    const int id = row.a.ids[r.allowed.begin + i];
    if (id >= 0 && id < row.n) row.weights[id] = 1.0f;
  }
  __syncthreads();
  for (int i = Thread(); i < r.banned.count; i += NumThreads()) {
    const int id = row.a.ids[r.banned.begin + i];
    if (id >= 0 && id < row.n) row.weights[id] = 0.0f;
  }
  __syncthreads();
  const Choice best = BlockNextBest(row.weights, row.n, {INFINITY, -1}, s);
  return best.value == 1.0f ? best.id : 0;
}

/// The first id at which the running sum of weights passes `uniform` times their sum.
__device__ int32_t Draw(const Row& row, SampleShared& s) {
  const Share share = ShareOf(row.n);
  unsigned long long sum = 0;
  for (int i = share.begin; i < share.end; ++i) sum += Quantize(row.weights[i]);
  const Prefix prefix = BlockPrefixSum(sum, s);
  const unsigned long long target =
      min(static_cast<unsigned long long>(row.request.uniform * static_cast<double>(prefix.total)),
          prefix.total - 1);
  if (prefix.before <= target && target < prefix.before + sum) {
    unsigned long long running = prefix.before;
    int i = share.begin;
    for (; running + Quantize(row.weights[i]) <= target; ++i) running += Quantize(row.weights[i]);
    s.id = i;
  }
  __syncthreads();
  return s.id;
}

/// Draws from the weights that top-k, top-p and min-p leave. `largest` is the largest logit.
__device__ int32_t SampleToken(const Row& row, float largest, SampleShared& s) {
  const SampleRequest& r = row.request;
  if (r.top_k > 0) {
    const auto k = static_cast<unsigned long long>(r.top_k);
    const Threshold t = FindThreshold(row.weights, row.n, k, CountOne{}, s);
    Cut(row.weights, row.n, t.key, k - t.above, -INFINITY, s);
  }
  unsigned long long sum = 0;
  for (int i = Thread(); i < row.n; i += NumThreads()) {
    const float weight = expf((row.weights[i] - largest) * r.inverse_temperature);
    row.weights[i] = weight;
    sum += Quantize(weight);
  }
  const unsigned long long total = BlockPrefixSum(sum, s).total;
  if (r.top_p < 1.0f) {
    const auto share =
        static_cast<unsigned long long>(static_cast<double>(r.top_p) * static_cast<double>(total));
    const unsigned long long needed = max(share, 1ull);
    const Threshold t = FindThreshold(row.weights, row.n, needed, CountWeight{}, s);
    const float weight = __uint_as_float(t.key & 0x7fffffffu);  // weights are not negative
    const unsigned long long each = Quantize(weight);
    Cut(row.weights, row.n, t.key, (needed - t.above + each - 1) / each, 0.0f, s);
  }
  for (int i = Thread(); i < row.n; i += NumThreads()) {
    if (row.weights[i] < r.min_p) row.weights[i] = 0;
  }
  __syncthreads();
  return Draw(row, s);
}

__device__ int32_t Choose(const Row& row, SampleShared& s) {
  Mask(row);
  Penalize(row);
  const Choice best = BlockNextBest(row.weights, row.n, {INFINITY, -1}, s);
  if (best.value == -INFINITY) return LowestPermitted(row, s);
  if (row.request.is_greedy != 0) return best.id;
  return SampleToken(row, best.value, s);
}

/// Log-sum-exp of the logits as they came.
__device__ float LogSum(const Row& row, SampleShared& s) {
  const float max = BlockNextBest(row.logits, row.n, {INFINITY, -1}, s).value;
  if (max == -INFINITY) return logf(static_cast<float>(row.n));
  double sum = 0;
  for (int i = Thread(); i < row.n; i += NumThreads()) {
    sum += static_cast<double>(expf(SafeLogit(row.logits[i]) - max));
  }
  return static_cast<float>(max + log(BlockSum(sum, s.sums)));
}

__global__ void __launch_bounds__(kMaxThreads) SampleKernel(SampleArrays a) {
  __shared__ SampleShared s;
  const int64_t index = blockIdx.x;
  const SampleRequest request = a.requests[index];
  const Row row = {a, request, a.logits + index * a.logits_stride,
                   a.weights + index * a.num_valid_tokens, a.num_valid_tokens};
  float log_sum = 0;
  if (request.num_top_logprobs >= 0) {
    log_sum = LogSum(row, s);
    Choice last = {INFINITY, -1};
    for (int i = 0; i < request.num_top_logprobs; ++i) {
      last = BlockNextBest(row.logits, row.n, last, s);
      if (Thread() == 0) {
        a.top_logprobs[index * a.num_top_logprobs + i] = {last.id, last.value - log_sum};
      }
    }
  }
  const int32_t token = Choose(row, s);
  if (Thread() == 0) a.tokens[index] = {token, SafeLogit(row.logits[token]) - log_sum};
}

}  // namespace

cudaError_t Sample(const Device& device, const SampleArrays& arrays, int64_t num_rows) {
  // A few tokens per thread; the number of rows has no say, so that it cannot change a row.
  const int threads = std::clamp((arrays.num_valid_tokens / 4 + 31) / 32 * 32, 32, kMaxThreads);
  return Launch(
      SampleKernel,
      {.grid = {static_cast<unsigned>(num_rows)}, .block = {static_cast<unsigned>(threads)}},
      device.stream, arrays);
}

}  // namespace moed::kernels::cuda
