#include <algorithm>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/ops.h"

/// A stable counting sort of a layer's rows by expert slot, by one block: even a prefill has but
/// some ten thousand rows, and a launch less is worth more.
namespace moed::kernels::cuda {
namespace {

constexpr int kMaxWarps = 32;
constexpr size_t kMaxSharedBytes = 96 << 10;

/// Shared memory: counts [num_warps, num_slots], first row of each slot [num_slots], tokens of each
/// expert [num_experts].
struct PlanMemory {
  int* counts;
  int* slot_begin;
  int* tokens;
};

struct RowSpan {
  int begin, end;
};

/// Each warp has rows that follow each other, a multiple of 32 but for the last.
__device__ RowSpan RowsOfWarp(int num_rows) {
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int each = (num_rows + num_warps * kWarpSize - 1) / (num_warps * kWarpSize) * kWarpSize;
  return {min(warp * each, num_rows), min((warp + 1) * each, num_rows)};
}

/// Calls use(row, slot, number of lanes before with this slot, lanes with it) for the warp's rows,
/// in order; `counts` [num_slots] has how many rows of each slot came before, and grows.
template <typename Use>
__device__ void WalkRows(const PlanExpertsParams& p, int* counts, Use use) {
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const RowSpan rows = RowsOfWarp(static_cast<int>(p.num_tokens) * p.top_k);
  for (int first = rows.begin; first < rows.end; first += kWarpSize) {
    const int row = first + lane;
    const bool exists = row < rows.end;
    const int slot = exists ? p.slot_of_expert[p.topk_ids[row]] : -1;
    const uint32_t same = __match_any_sync(kAllLanes, slot);
    const int rank = __popc(same & ((1u << lane) - 1));
    if (exists) use(row, slot, counts[slot] + rank);
    __syncwarp();
    if (exists && rank == 0) counts[slot] += __popc(same);
    __syncwarp();
  }
}

/// Turns the counts of each warp into the first rows of each slot and warp; writes the offsets.
__device__ void ScanCounts(const PlanExpertsParams& p, const PlanMemory& memory) {
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int thread = static_cast<int>(threadIdx.x);
  for (int slot = thread; slot < p.num_slots; slot += static_cast<int>(blockDim.x)) {
    int total = 0;
    for (int warp = 0; warp < num_warps; ++warp) {
      int& count = memory.counts[warp * p.num_slots + slot];
      const int own = count;
      count = total;
      total += own;
    }
    memory.slot_begin[slot] = total;
  }
  __syncthreads();
  int before = 0;
  for (int first = 0; thread < kWarpSize && first < p.num_slots; first += kWarpSize) {
    const int slot = first + thread;
    const int own = slot < p.num_slots ? memory.slot_begin[slot] : 0;
    int sum = own;
    for (int offset = 1; offset < kWarpSize; offset *= 2) {
      const int other = __shfl_up_sync(kAllLanes, sum, offset);
      if (thread >= offset) sum += other;
    }
    if (slot < p.num_slots) {
      memory.slot_begin[slot] = before + sum - own;
      p.expert_offsets[slot + 1] = before + sum;
    }
    before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
  }
  if (thread == 0) p.expert_offsets[0] = 0;
  __syncthreads();
}

__global__ void PlanExpertsKernel(PlanExpertsParams p) {
  const int num_warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  int* shared = DynamicShared<int>();
  const PlanMemory memory = {shared, shared + num_warps * p.num_slots,
                             shared + (num_warps + 1) * p.num_slots};
  const int num_ints = (num_warps + 1) * p.num_slots + p.num_experts;
  for (int i = static_cast<int>(threadIdx.x); i < num_ints; i += static_cast<int>(blockDim.x)) {
    shared[i] = 0;
  }
  __syncthreads();
  const int counted_end =
      p.num_counted_tokens == nullptr ? p.counted_end : min(p.counted_end, *p.num_counted_tokens);
  int* counts = memory.counts + warp * p.num_slots;
  WalkRows(p, counts, [&](int row, int, int) {
    const int token = row / p.top_k;
    if (token >= p.counted_begin && token < counted_end) {
      atomicAdd(&memory.tokens[p.topk_ids[row]], 1);
    }
  });
  __syncthreads();
  ScanCounts(p, memory);
  WalkRows(p, counts, [&](int row, int slot, int before) {
    const int to = memory.slot_begin[slot] + before;
    p.x_row[to] = row / p.top_k;
    p.out_row[to] = row;
  });
  for (int e = static_cast<int>(threadIdx.x); e < p.num_experts;
       e += static_cast<int>(blockDim.x)) {
    p.tokens_per_expert[e] = memory.tokens[e];
  }
}

}  // namespace

cudaError_t PlanExperts(const Device& device, const PlanExpertsParams& p) {
  const int64_t num_rows = p.num_tokens * p.top_k;
  const int64_t for_rows = (num_rows + kWarpSize - 1) / kWarpSize;
  const int64_t slot_bytes = int64_t{p.num_slots} * int64_t{sizeof(int)};
  const int64_t expert_bytes = int64_t{p.num_experts} * int64_t{sizeof(int)};
  const int64_t for_memory = (int64_t{kMaxSharedBytes} - expert_bytes) / slot_bytes - 1;
  const int64_t num_warps =
      std::max<int64_t>(1, std::min<int64_t>({kMaxWarps, for_rows, for_memory}));
  return Launch(PlanExpertsKernel,
                {.grid = {1},
                 .block = {static_cast<unsigned>(num_warps * kWarpSize)},
                 .shared_bytes = static_cast<size_t>((num_warps + 1) * slot_bytes + expert_bytes)},
                device.stream, p);
}

}  // namespace moed::kernels::cuda
