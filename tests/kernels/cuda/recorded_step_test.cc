#include <algorithm>
#include <numeric>

#include "gtest/gtest.h"
#include "kernels/create_backend.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/pinned_copy.h"
#include "tests/cuda_emulation/emulated_device.h"
#include "tests/kernels/op_test_util.h"

namespace moed::kernels::cuda {
namespace {

std::unique_ptr<Backend> Emulated() {
  auto backend = CreateCudaBackend({.device = "cuda:0"});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

// ---- recordings ----

TEST(RecordedStepTest, FewNumbersOfRowsAreRecordedAndNoneIsLarge) {
  const auto backend = Emulated();
  EXPECT_EQ(backend->RowsToRecord(1), 1);
  EXPECT_EQ(backend->RowsToRecord(3), 4);
  EXPECT_EQ(backend->RowsToRecord(5), 8);
  EXPECT_EQ(backend->RowsToRecord(64), 64);
  EXPECT_EQ(backend->RowsToRecord(65), 80);
  EXPECT_EQ(backend->RowsToRecord(256), 256);
  EXPECT_EQ(backend->RowsToRecord(257), 0);
}

TEST(RecordedStepTest, AfterTwoStepsOpsAreRepeatedOnWhatTheMemoryHoldsThen) {
  const auto backend = Emulated();
  const Tensor weight(*backend, DType::kF32, 4, std::vector<float>{1, 1, 1, 1});
  const Tensor x(*backend, DType::kF32, 2, 4), out(*backend, DType::kBF16, 2, 4);
  const Tensor expected(*backend, DType::kBF16, 2, 4);
  int num_calls = 0;
  for (int step = 0; step < 5; ++step) {
    const auto values = RandomValues(8, 10 + step, DType::kF32);
    backend->CopyToDevice(x.data<float>(), values.data(), 32);
    const absl::Status status = backend->RunStep({.recording_id = 2}, [&] {
      ++num_calls;
      backend->RmsNorm(x.view(), weight.data<float>(), 1e-5f, out.view());
      return absl::OkStatus();
    });
    ASSERT_TRUE(status.ok()) << status;
    backend->RmsNorm(x.view(), weight.data<float>(), 1e-5f, expected.view());
    EXPECT_EQ(out.bytes(), expected.bytes()) << step;
  }
  EXPECT_EQ(num_calls, 2);
}

TEST(RecordedStepTest, AnErrorOfTheOpsIsReturnedAndNothingIsKept) {
  const auto backend = Emulated();
  int num_calls = 0;
  for (int step = 0; step < 4; ++step) {
    EXPECT_EQ(backend->RunStep({.recording_id = 1},
                               [&] {
                                 ++num_calls;
                                 return absl::AbortedError("peer");
                               }),
              absl::AbortedError("peer"));
  }
  EXPECT_EQ(num_calls, 4);
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST(RecordedStepTest, HostMemoryHasNoPlaceInARecording) {
  const auto backend = Emulated();
  const Tensor x(*backend, DType::kF32, 1, 4);
  const float value = 1;
  for (int step = 0; step < 2; ++step) {
    EXPECT_TRUE(backend->Synchronize().ok());
    EXPECT_TRUE(backend
                    ->RunStep({.recording_id = 1},
                              [&] {
                                backend->CopyToDevice(x.data<float>(), &value, sizeof(value));
                                return absl::OkStatus();
                              })
                    .ok());
  }
  const absl::Status status = backend->Synchronize();
  EXPECT_NE(status.message().find("uploading in a recorded step"), std::string::npos) << status;
}

/// Decode attention of two sequences over one cache, alone and as the step of an engine.
class StepAttentionTest : public testing::Test {
 protected:
  static constexpr int32_t kHeads = 4, kKvHeads = 2, kDim = 16, kBlock = 16, kBlocks = 200;

  StepAttentionTest() {
    tables_.resize(kBlocks);
    std::iota(tables_.begin(), tables_.end(), 0);
    std::reverse(tables_.begin(), tables_.end());
  }

  /// Sequences with so many keys, the new one included.
  void SetKeys(int32_t first, int32_t second) {
    starts_ = {first - 1, second - 1};
    batch_ = {.row_begin = row_begin_,
              .start_position = starts_,
              .block_tables = tables_,
              .block_begin = block_begin_};
  }

  AttentionParams Params(const AttentionBatch& batch, const Tensor& out) const {
    return {.q = q_.view(),
            .cache = {.k = k_.data<void>(),
                      .v = v_.data<void>(),
                      .num_blocks = kBlocks,
                      .block_size = kBlock},
            .batch = &batch,
            .num_heads = kHeads,
            .num_kv_heads = kKvHeads,
            .head_dim = kDim,
            .scale = 0.25f,
            .out = out.view()};
  }

  /// The step, recorded if it can be; and the same by the op alone.
  void ExpectTheSame(int32_t first, int32_t second) {
    SetKeys(first, second);
    const StepParams step = {.attention = &batch_,
                             .num_heads = kHeads,
                             .num_kv_heads = kKvHeads,
                             .head_dim = kDim,
                             .recording_id = 2};
    ASSERT_TRUE(backend_
                    ->RunStep(step,
                              [&] {
                                ++num_calls_;
                                backend_->Attention(Params(batch_, out_));
                                return absl::OkStatus();
                              })
                    .ok());
    const AttentionBatch copy = batch_;
    backend_->Attention(Params(copy, expected_));
    ASSERT_EQ(out_.bytes(), expected_.bytes()) << first << " and " << second << " keys";
  }

  std::unique_ptr<Backend> backend_ = Emulated();
  const Tensor q_{*backend_, DType::kBF16, kHeads* kDim,
                  RandomValues(2 * kHeads * kDim, 1, DType::kBF16)};
  const Tensor k_{*backend_, DType::kBF16, kDim,
                  RandomValues(kBlocks* kKvHeads* kBlock* kDim, 2, DType::kBF16)};
  const Tensor v_{*backend_, DType::kBF16, kDim,
                  RandomValues(kBlocks* kKvHeads* kBlock* kDim, 3, DType::kBF16)};
  const Tensor out_{*backend_, DType::kBF16, 2, kHeads* kDim};
  const Tensor expected_{*backend_, DType::kBF16, 2, kHeads* kDim};
  std::vector<int32_t> tables_, starts_;
  const std::vector<int32_t> row_begin_ = {0, 1, 2}, block_begin_ = {0, 100, 200};
  AttentionBatch batch_;
  int num_calls_ = 0;
};

TEST_F(StepAttentionTest, ARecordedStepServesContextsOfEveryLength) {
  for (int32_t keys : {1, 5, 100, 257, 600, 30}) ExpectTheSame(keys, 1600 - keys);
  EXPECT_EQ(num_calls_, 2);
}

TEST_F(StepAttentionTest, RecordingsAreMadeAnewWhenTheMemoryOfPlansHasMoved) {
  for (int i = 0; i < 3; ++i) ExpectTheSame(3, 4);
  EXPECT_EQ(num_calls_, 2);
  tables_.resize(70000);  // of which the sequences use the first ones
  for (int i = 0; i < 3; ++i) ExpectTheSame(40 + i, 300);
  EXPECT_EQ(num_calls_, 4);
}

// ---- copies through pinned memory ----

TEST(PinnedCopyTest, MoreThanThePinnedMemoryHoldsArrivesWholeAndInOrder) {
  const auto backend = Emulated();
  constexpr size_t kInts = 3 * PinnedCopy::kPieceBytes / 4 + 77;
  std::vector<int32_t> values(kInts);
  std::iota(values.begin(), values.end(), 0);
  const auto bytes = static_cast<int64_t>(kInts * sizeof(int32_t));
  const auto buffer = backend->Allocate(bytes);
  ASSERT_TRUE(buffer.ok()) << buffer.status();
  backend->CopyToDevice(buffer->data(), values.data(), bytes);
  backend->CopyToDevice(buffer->data(), values.data() + 7, 4);  // later copies come later
  std::vector<int32_t> got(kInts);
  std::fill(values.begin(), values.begin() + 1, 7);
  backend->CopyToHost(got.data(), buffer->data(), bytes);
  EXPECT_TRUE(got == values);
}

TEST(PinnedCopyTest, FailuresWhileWeightsAreLoadedAreAStatus) {
  const HostWeights host(RandomValues(64 * 64, 1, DType::kBF16), 64, DType::kBF16);
  const HostMatrix matrix = host.matrix();
  const ExpertSource source = {.gate = matrix, .up = matrix, .down = matrix};
  const auto load = [&] {
    const auto backend = Emulated();
    const absl::Status linear =
        backend->LoadLinear({&matrix, 1}, {}, WeightFormat::kStored).status();
    const absl::Status experts =
        Emulated()->LoadExperts({&source, 1}, WeightFormat::kStored).status();
    EXPECT_EQ(linear.code(), experts.code()) << linear << experts;
    return linear;
  };
  EXPECT_TRUE(load().ok());
  cuda_emulation::FailCopies(cudaErrorLaunchFailure);
  const absl::Status no_copy = load();
  cuda_emulation::FailCopies(cudaSuccess);
  EXPECT_EQ(no_copy.code(), absl::StatusCode::kInternal);
  EXPECT_NE(no_copy.message().find("copying to the device on cuda:0: cudaErrorLaunchFailure"),
            std::string::npos)
      << no_copy;
  cuda_emulation::FailPinnedMemory(cudaErrorMemoryAllocation);
  const absl::Status no_pinned = load();
  cuda_emulation::FailPinnedMemory(cudaSuccess);
  EXPECT_EQ(no_pinned.code(), absl::StatusCode::kInternal);
  cuda_emulation::SetMemoryLimit(4096);
  const absl::Status no_memory = load();
  cuda_emulation::SetMemoryLimit(size_t{1} << 30);
  EXPECT_EQ(no_memory.code(), absl::StatusCode::kResourceExhausted) << no_memory;
  EXPECT_TRUE(load().ok());
}

}  // namespace
}  // namespace moed::kernels::cuda
