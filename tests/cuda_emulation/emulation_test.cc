#include <cuda_runtime.h>

#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cuda/ptx.cuh"
#include "tests/cuda_emulation/emulated_device.h"

namespace cuda_emulation {
namespace {

using moed::kernels::cuda::Bf16;
using moed::kernels::cuda::DynamicShared;
using moed::kernels::cuda::Launch;
using moed::kernels::cuda::ToBf16;
using moed::kernels::cuda::ToFloat;

constexpr uint32_t kAll = 0xffffffffu;

/// Device memory that a test reads and writes through copies.
template <typename T>
class Array {
 public:
  explicit Array(const std::vector<T>& values) : size_(values.size()) {
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), size_ * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
  }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { EXPECT_EQ(cudaFree(data_), cudaSuccess); }

  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> out(size_);
    EXPECT_EQ(cudaMemcpy(out.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost),
              cudaSuccess);
    return out;
  }

 private:
  size_t size_;
  T* data_ = nullptr;
};

// ---- grids, barriers, atomics ----

__global__ void RecordIndices(int* out) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(block + thread);
}

TEST(CudaEmulationTest, EveryThreadOfEveryBlockRunsOnceWithItsIndices) {
  const Array<int> out(std::vector<int>(12 * 24, 0));
  ASSERT_EQ(Launch(RecordIndices, {.grid = {3, 2, 2}, .block = {4, 3, 2}}, nullptr, out.data()),
            cudaSuccess);
  const auto got = out.values();
  for (int i = 0; i < 12 * 24; ++i) EXPECT_EQ(got[i], i / 24 + i % 24);
}

__global__ void ReverseThroughShared(int* data) {
  __shared__ int fixed[100];
  int* dynamic = DynamicShared<int>();
  const int i = static_cast<int>(threadIdx.x);
  fixed[i] = data[i];
  __syncthreads();
  dynamic[i] = fixed[99 - i];
  __syncthreads();
  if (i == 0) atomicAdd(&data[100], 1);
  data[i] = dynamic[i];
}

TEST(CudaEmulationTest, SharedMemoryIsSeenAfterABarrier) {
  std::vector<int> values(101);
  for (int i = 0; i < 100; ++i) values[i] = i;
  const Array<int> data(values);
  ASSERT_EQ(Launch(ReverseThroughShared, {.grid = {1}, .block = {100}, .shared_bytes = 400},
                   nullptr, data.data()),
            cudaSuccess);
  const auto got = data.values();
  for (int i = 0; i < 100; ++i) EXPECT_EQ(got[i], 99 - i);
  EXPECT_EQ(got[100], 1);
}

__global__ void CountWithAtomics(unsigned* count, int* votes) {
  atomicAdd(count, 2u);
  atomicMax(count + 1, threadIdx.x + 100 * blockIdx.x);
  const int odd = __syncthreads_count(threadIdx.x % 2);
  const int any = __syncthreads_or(threadIdx.x == 7), all = __syncthreads_and(threadIdx.x < 63);
  if (threadIdx.x == 0) {
    votes[0] = odd;
    votes[1] = any;
    votes[2] = all;
  }
}

TEST(CudaEmulationTest, AtomicsAndVotingBarriersCountAllThreads) {
  const Array<unsigned> count({0, 0});
  const Array<int> votes({-1, -1, -1});
  ASSERT_EQ(
      Launch(CountWithAtomics, {.grid = {5}, .block = {64}}, nullptr, count.data(), votes.data()),
      cudaSuccess);
  EXPECT_EQ(count.values(), (std::vector<unsigned>{640, 463}));
  EXPECT_EQ(votes.values(), (std::vector<int>{32, 1, 0}));
}

// ---- warp operations ----

__global__ void Shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int* row = out + 8 * threadIdx.x;
  row[0] = __shfl_sync(kAll, lane * 10, lane + 1);
  row[1] = __shfl_up_sync(kAll, lane, 3);
  row[2] = __shfl_down_sync(kAll, lane, 3);
  row[3] = __shfl_xor_sync(kAll, lane, 5);
  row[4] = __shfl_sync(kAll, lane, 2, 8);
  row[5] = __shfl_down_sync(kAll, lane, 2, 8);
  row[6] = __shfl_up_sync(kAll, lane, 2, 8);
  row[7] = __shfl_xor_sync(kAll, lane, 12, 8);
}

TEST(CudaEmulationTest, ShufflesReadTheLanesThatCudaSays) {
  const Array<int> out(std::vector<int>(64 * 8, -1));
  ASSERT_EQ(Launch(Shuffles, {.grid = {1}, .block = {64}}, nullptr, out.data()), cudaSuccess);
  const auto got = out.values();
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32, part = lane % 8, base = lane - part;
    const std::vector<int> row(got.begin() + 8 * thread, got.begin() + 8 * thread + 8);
    EXPECT_EQ(row, (std::vector<int>{(lane + 1) % 32 * 10, lane < 3 ? lane : lane - 3,
                                     lane > 28 ? lane : lane + 3, lane ^ 5, base + 2,
                                     part > 5 ? lane : lane + 2, part < 2 ? lane : lane - 2,
                                     (lane ^ 12) > base + 7 ? lane : lane ^ 12}));
  }
}

__global__ void Votes(unsigned* out) {
  const unsigned lane = threadIdx.x;
  unsigned* row = out + 8 * lane;
  row[0] = __ballot_sync(kAll, lane % 3 == 0);
  row[1] = static_cast<unsigned>(__any_sync(kAll, lane == 31));
  row[2] = static_cast<unsigned>(__all_sync(kAll, lane != 31));
  row[3] = __match_any_sync(kAll, lane % 5);
  int same = -1;
  row[4] = __match_all_sync(kAll, 7, &same);
  row[5] = static_cast<unsigned>(__reduce_min_sync(kAll, 5 - static_cast<int>(lane)) + 100);
  if (lane < 16) {  // halves of a warp may do different things
    row[6] = __reduce_add_sync(0x0000ffffu, lane);
  } else {
    row[6] = __ballot_sync(0xffff0000u, 1);
  }
  row[7] = static_cast<unsigned>(same);
}

TEST(CudaEmulationTest, VotesMatchesAndReductionsHonourTheirMasks) {
  const Array<unsigned> out(std::vector<unsigned>(32 * 8, 77));
  ASSERT_EQ(Launch(Votes, {.grid = {1}, .block = {32}}, nullptr, out.data()), cudaSuccess);
  const auto got = out.values();
  for (unsigned lane = 0; lane < 32; ++lane) {
    unsigned thirds = 0, equal = 0;
    for (unsigned i = 0; i < 32; ++i) {
      thirds |= unsigned{i % 3 == 0} << i;
      equal |= unsigned{i % 5 == lane % 5} << i;
    }
    const std::vector<unsigned> row(got.begin() + 8 * lane, got.begin() + 8 * lane + 8);
    EXPECT_EQ(row, (std::vector<unsigned>{thirds, 1, 0, equal, kAll, 74,
                                          lane < 16 ? 120u : 0xffff0000u, 1}));
  }
}

// ---- ptx.cuh ----

/// d = a b^T through shared memory, ldmatrix and mma: a [16, 16], b [8, 16], d [16, 8].
__global__ void MultiplyTile(const Bf16* a, const Bf16* b, float* d) {
  namespace cuda = moed::kernels::cuda;
  Bf16* tile = DynamicShared<Bf16>();  // a, then b twice
  const int lane = static_cast<int>(threadIdx.x);
  cuda::CopyAsync16(tile + 8 * lane, a + 8 * lane, 16);
  cuda::CopyAsync16(tile + 256 + 8 * lane, b + 8 * (lane % 16), 16);
  cuda::CommitCopies();
  cuda::WaitForCopies<0>();
  __syncthreads();
  uint32_t a_part[4], b_part[4];
  cuda::LoadMatrix4(a_part, tile + (lane % 16) * 16 + lane / 16 * 8);
  cuda::LoadMatrix4(b_part, tile + 256 + (lane % 8) * 16 + lane / 8 % 2 * 8);
  float out[4] = {};
  cuda::MmaBf16(out, a_part, b_part[0], b_part[1]);
  for (int i = 0; i < 4; ++i) d[(lane / 4 + i / 2 * 8) * 8 + 2 * (lane % 4) + i % 2] = out[i];
}

TEST(CudaEmulationTest, MmaMultipliesWhatLdmatrixLoads) {
  std::vector<Bf16> a, b;
  for (int i = 0; i < 256; ++i) a.push_back(ToBf16(static_cast<float>(i * 7 % 13 - 6)));
  for (int i = 0; i < 128; ++i) b.push_back(ToBf16(static_cast<float>(i * 5 % 11 - 5)));
  const Array<Bf16> device_a(a), device_b(b);
  const Array<float> d(std::vector<float>(128, NAN));
  ASSERT_EQ(Launch(MultiplyTile, {.grid = {1}, .block = {32}, .shared_bytes = 1024}, nullptr,
                   device_a.data(), device_b.data(), d.data()),
            cudaSuccess);
  const auto got = d.values();
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 8; ++column) {
      float expected = 0;
      for (int k = 0; k < 16; ++k)
        expected += ToFloat(a[row * 16 + k]) * ToFloat(b[column * 16 + k]);
      EXPECT_EQ(got[row * 8 + column], expected) << row << ", " << column;
    }
  }
}

__global__ void TransposeTile(const Bf16* in, uint32_t* out) {
  namespace cuda = moed::kernels::cuda;
  Bf16* tile = DynamicShared<Bf16>();  // [32, 8]
  for (int i = 0; i < 8; ++i) tile[8 * threadIdx.x + i] = in[8 * threadIdx.x + i];
  __syncwarp();
  uint32_t part[4];
  cuda::LoadMatrix4Transposed(part, tile + 8 * threadIdx.x);
  for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = part[i];
}

TEST(CudaEmulationTest, TransposedLdmatrixExchangesRowsAndColumns) {
  std::vector<Bf16> in;
  for (int i = 0; i < 256; ++i) in.push_back({static_cast<uint16_t>(i)});
  const Array<Bf16> device_in(in);
  const Array<uint32_t> out(std::vector<uint32_t>(128, 0));
  ASSERT_EQ(Launch(TransposeTile, {.grid = {1}, .block = {32}, .shared_bytes = 512}, nullptr,
                   device_in.data(), out.data()),
            cudaSuccess);
  const auto got = out.values();
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = 2 * (lane % 4), column = lane / 4, at = 64 * i + 8 * row + column;
      EXPECT_EQ(got[4 * lane + i], at | (at + 8) << 16);
    }
  }
}

__global__ void LookBeforeTheWait(const uint32_t* in, uint32_t* out) {
  namespace cuda = moed::kernels::cuda;
  uint32_t* shared = DynamicShared<uint32_t>();
  cuda::CopyAsync16(shared, in, 16);
  cuda::CommitCopies();
  cuda::CopyAsync16(shared + 4, in, 4);
  cuda::CommitCopies();
  cuda::WaitForCopies<1>();
  for (int i = 0; i < 8; ++i) out[i] = shared[i];
  cuda::WaitForCopies<0>();
  for (int i = 0; i < 8; ++i) out[8 + i] = shared[i];
}

TEST(CudaEmulationTest, AsynchronousCopiesArriveWithTheWaitThatCoversThem) {
  const Array<uint32_t> in({1, 2, 3, 4}), out(std::vector<uint32_t>(16, 0));
  ASSERT_EQ(Launch(LookBeforeTheWait, {.grid = {1}, .block = {1}, .shared_bytes = 32}, nullptr,
                   in.data(), out.data()),
            cudaSuccess);
  EXPECT_EQ(out.values(), (std::vector<uint32_t>{1, 2, 3, 4, kAll, kAll, kAll, kAll,  //
                                                 1, 2, 3, 4, 1, 0, 0, 0}));
}

// ---- misuse is named ----

cudaError_t RunOnce(void (*kernel)(int*), int threads, int* data) {
  const cudaError_t error =
      Launch(kernel, {.grid = {1}, .block = {static_cast<unsigned>(threads)}, .shared_bytes = 64},
             nullptr, data);
  return error == cudaSuccess ? cudaDeviceSynchronize() : error;
}

__global__ void BarrierForSome(int*) {
  if (threadIdx.x < 40) __syncthreads();
}
__global__ void BarriersApart(int* data) {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    data[0] = 1;
    __syncthreads();
  }
}
__global__ void ShuffleWithoutALane(int* data) {
  if (threadIdx.x != 9) data[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}
__global__ void ShuffleWithOtherMasks(int* data) {
  data[threadIdx.x] = __shfl_sync(threadIdx.x < 4 ? 0xffu : kAll, 1, 0);
}
__global__ void VoteOutsideTheMask(int* data) { data[0] = __any_sync(1u << 5, 1); }
__global__ void WriteBehindTheArray(int* data) { data[64] = 1; }
#if defined(__SANITIZE_ADDRESS__)
__global__ void ReadBehindSharedMemory(int* data) { data[0] = DynamicShared<int>()[16]; }
__global__ void ReadBehindFixedSharedMemory(int* data) {
  __shared__ int fixed[8];
  fixed[threadIdx.x % 8] = 1;
  data[0] = fixed[data[1]];
}
#endif
__global__ void CopyToNowhere(int* data) {
  moed::kernels::cuda::CopyAsync16(DynamicShared<char>() + 64, data, 16);
}
__global__ void CopyFromBehindTheArray(int* data) {
  moed::kernels::cuda::CopyAsync16(DynamicShared<char>(), data + 64, 16);
}
__global__ void CopyAcross(int* data) {
  moed::kernels::cuda::CopyAsync16(DynamicShared<char>(), data + 1, 16);
}

class CudaEmulationDeathTest : public testing::Test {
 protected:
  const Array<int> data_{std::vector<int>(64, 9)};
};

TEST_F(CudaEmulationDeathTest, ABarrierThatSomeThreadsMissIsNamed) {
  EXPECT_DEATH(RunOnce(BarrierForSome, 64, data_.data()),
               "divergent barrier(.|\n)*thread 39 waits at the barrier at .*emulation_test.cc"
               "(.|\n)*thread 40 has returned");
  EXPECT_DEATH(RunOnce(BarriersApart, 64, data_.data()), "thread \\(3, 0, 0\\): divergent barrier");
}

TEST_F(CudaEmulationDeathTest, WarpOperationsWhoseLanesDisagreeAreNamed) {
  EXPECT_DEATH(RunOnce(ShuffleWithoutALane, 32, data_.data()),
               "lane 9 of mask ffffffff has returned|thread 9 has returned");
  EXPECT_DEATH(RunOnce(ShuffleWithOtherMasks, 32, data_.data()), "with mask 000000ff");
  EXPECT_DEATH(RunOnce(VoteOutsideTheMask, 32, data_.data()), "not in its own mask");
}

TEST_F(CudaEmulationDeathTest, AccessesOutOfBoundsAreNamed) {
  EXPECT_DEATH(RunOnce(WriteBehindTheArray, 1, data_.data()),
               "wrote behind an allocation of 256 bytes|AddressSanitizer");
  EXPECT_DEATH(RunOnce(CopyToNowhere, 1, data_.data()), "not in the block's dynamic shared memory");
  EXPECT_DEATH(RunOnce(CopyFromBehindTheArray, 1, data_.data()), "not device memory");
  EXPECT_DEATH(RunOnce(CopyAcross, 1, data_.data()), "misaligned: the source of cp.async");
#if defined(__SANITIZE_ADDRESS__)
  EXPECT_DEATH(RunOnce(ReadBehindSharedMemory, 1, data_.data()), "AddressSanitizer");
  EXPECT_DEATH(RunOnce(ReadBehindFixedSharedMemory, 1, data_.data()), "out of bounds|Sanitizer");
  EXPECT_DEATH(data_.data()[0] = 1, "AddressSanitizer: use-after-poison");
#endif
}

// ---- runtime ----

__global__ void AddOne(int* data) { data[threadIdx.x] += 1; }
__global__ void Double(int* data) { data[threadIdx.x] *= 2; }

TEST(CudaEmulationTest, WorkOnAStreamWaitsUntilSomebodyWaitsForIt) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const Array<int> data(std::vector<int>(32, 1));
  void* host = nullptr;
  ASSERT_EQ(cudaMallocHost(&host, 128), cudaSuccess);
  std::memset(host, 0, 128);
  const int before = NumKernelsRun();
  ASSERT_EQ(Launch(AddOne, {.grid = {1}, .block = {32}}, stream, data.data()), cudaSuccess);
  ASSERT_EQ(cudaMemcpyAsync(host, data.data(), 128, cudaMemcpyDeviceToHost, stream), cudaSuccess);
  EXPECT_EQ(NumKernelsRun(), before);
  EXPECT_EQ(static_cast<int*>(host)[31], 0);
  EXPECT_EQ(cudaStreamQuery(stream), cudaErrorNotReady);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(NumKernelsRun(), before + 1);
  EXPECT_EQ(static_cast<int*>(host)[31], 2);
  EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
}

TEST(CudaEmulationTest, AStreamThatWaitsForAnEventGoesOnAfterIt) {
  cudaStream_t first = nullptr, second = nullptr;
  cudaEvent_t event = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&first, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaStreamCreateWithFlags(&second, cudaStreamNonBlocking), cudaSuccess);
  ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  const Array<int> data(std::vector<int>(32, 1));
  ASSERT_EQ(Launch(AddOne, {.grid = {1}, .block = {32}}, first, data.data()), cudaSuccess);
  ASSERT_EQ(cudaEventRecord(event, first), cudaSuccess);
  ASSERT_EQ(cudaStreamWaitEvent(second, event), cudaSuccess);
  ASSERT_EQ(Launch(Double, {.grid = {1}, .block = {32}}, second, data.data()), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(second), cudaSuccess);
  EXPECT_EQ(data.values(), std::vector<int>(32, 4));
  EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(first), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(second), cudaSuccess);
}

TEST(CudaEmulationTest, AGraphReplaysWhatWasCaptured) {
  cudaStream_t stream = nullptr;
  ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
  const Array<int> data(std::vector<int>(32, 1));
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  ASSERT_EQ(Launch(AddOne, {.grid = {1}, .block = {32}}, stream, data.data()), cudaSuccess);
  ASSERT_EQ(Launch(Double, {.grid = {1}, .block = {32}}, stream, data.data()), cudaSuccess);
  EXPECT_EQ(cudaStreamSynchronize(stream), cudaErrorStreamCaptureUnsupported);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t exec = nullptr;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&exec, graph), cudaSuccess);
  ASSERT_EQ(cudaGraphDestroy(graph), cudaSuccess);
  EXPECT_EQ(data.values(), std::vector<int>(32, 1));
  for (int i = 0; i < 2; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
  ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
  EXPECT_EQ(data.values(), std::vector<int>(32, 10));
  EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
  cudaGetLastError();
}

TEST(CudaEmulationTest, WrongUseOfTheRuntimeGivesCudasErrors) {
  const Array<int> data(std::vector<int>(8, 1));
  int host[8] = {};
  EXPECT_EQ(Launch(AddOne, {.grid = {1}, .block = {1025}}, nullptr, data.data()),
            cudaErrorInvalidConfiguration);
  EXPECT_EQ(
      Launch(AddOne, {.grid = {1}, .block = {1}, .shared_bytes = 200 << 10}, nullptr, data.data()),
      cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, data.data(), 33, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(data.data(), host, 8, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(host), cudaErrorInvalidValue);
  SetMemoryLimit(1000);
  void* pointer = nullptr;
  EXPECT_EQ(cudaMalloc(&pointer, 1000), cudaErrorMemoryAllocation);
  SetMemoryLimit(size_t{1} << 30);
  EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess);
  SetStickyError(cudaErrorIllegalAddress);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaErrorIllegalAddress);
  SetStickyError(cudaSuccess);
  EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

}  // namespace
}  // namespace cuda_emulation
