#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime.h>

#include "gtest/gtest.h"
#include "kernels/create_backend.h"
#include "tests/cuda_emulation/emulated_device.h"
#include "tests/kernels/op_test_util.h"

namespace moed::kernels::cuda {
namespace {

std::unique_ptr<Backend> Emulated() {
  auto backend = CreateCudaBackend({.device = "cuda:0"});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

TEST(CudaBackendTest, SaysWhatItIs) {
  const auto backend = Emulated();
  EXPECT_EQ(backend->device(), "cuda:0");
  EXPECT_EQ(backend->instruction_set(), "sm_80");
  EXPECT_EQ(backend->activation_dtype(), DType::kBF16);
}

TEST(CudaBackendTest, DevicesAndDtypesThatItLacksAreRefused) {
  EXPECT_EQ(CreateCudaBackend({.device = "cuda:8"}).status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(CreateCudaBackend({.device = "cuda:-1"}).status().code(), absl::StatusCode::kNotFound);
  for (const char* device : {"cuda", "cuda:", "cuda:x", "cpu"}) {
    EXPECT_EQ(CreateCudaBackend({.device = device}).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(
      CreateCudaBackend({.device = "cuda:0", .activation_dtype = DType::kF32}).status().code(),
      absl::StatusCode::kInvalidArgument);
}

TEST(CudaBackendTest, HeadsThatAttentionCannotHaveAreRefusedBeforeLoading) {
  const auto backend = Emulated();
  EXPECT_TRUE(backend->CheckHeadDim(128).ok());
  const absl::Status status = backend->CheckHeadDim(130);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("heads of 130 elements, expected at most 128"), std::string::npos)
      << status;
}

TEST(CudaBackendTest, ABuildWithoutCudaSaysSo) {
  const absl::Status status = CreateBackend({.device = "cuda:0"}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("built without CUDA"), std::string::npos) << status;
}

TEST(CudaBackendTest, MemoryIsAlignedZeroedAndBounded) {
  const auto backend = Emulated();
  for (int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{1000}}) {
    const auto buffer = backend->Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    std::vector<char> host(bytes, 'x');
    backend->CopyToHost(host.data(), buffer->data(), bytes);
    EXPECT_EQ(host, std::vector<char>(bytes, 0));
  }
  EXPECT_EQ(backend->Allocate(-1).status().code(), absl::StatusCode::kInvalidArgument);
  cuda_emulation::SetMemoryLimit(size_t{1} << 20);
  EXPECT_EQ(backend->Allocate(2 << 20).status().code(), absl::StatusCode::kResourceExhausted);
  cuda_emulation::SetMemoryLimit(size_t{1} << 30);
  EXPECT_TRUE(backend->Allocate(2 << 20).ok());
  EXPECT_TRUE(backend->Synchronize().ok());
}

TEST(CudaBackendTest, AFailureOfTheDeviceIsKeptAndNamedBySynchronize) {
  const auto backend = Emulated();
  const Tensor x(*backend, DType::kF32, 4, std::vector<float>{1, 2, 3, 4});
  const Tensor weight(*backend, DType::kF32, 4, std::vector<float>{1, 1, 1, 1});
  const Tensor out(*backend, DType::kBF16, 1, 4);
  ASSERT_TRUE(backend->Synchronize().ok());
  cuda_emulation::SetStickyError(cudaErrorIllegalAddress);
  backend->RmsNorm(x.view(), weight.data<float>(), 1e-5f, out.view());
  const absl::Status status = backend->Synchronize();
  cuda_emulation::SetStickyError(cudaSuccess);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_NE(status.message().find("RmsNorm on cuda:0: cudaErrorIllegalAddress"), std::string::npos)
      << status;
  // What was computed after it is not to be trusted, so the backend stays failed and does nothing.
  const int kernels = cuda_emulation::NumKernelsRun();
  backend->RmsNorm(x.view(), weight.data<float>(), 1e-5f, out.view());
  EXPECT_EQ(backend->Synchronize(), status);
  EXPECT_EQ(cuda_emulation::NumKernelsRun(), kernels);
  std::vector<SampleRow> rows(1);
  std::vector<SampleOutput> sampled(1, SampleOutput{.token_id = 7});
  backend->Sample({.logits = x.view(),
                   .num_valid_tokens = 3,
                   .rows = rows,
                   .out = std::span<SampleOutput>(sampled)});
  EXPECT_EQ(sampled[0].token_id, 0);
}

TEST(CudaBackendTest, OpsRunInOrderWithoutWaitingAndUploadsOutliveTheirSources) {
  const auto backend = Emulated();
  const HostWeights host(RandomValues(16 * 16, 1, DType::kBF16), 16, DType::kBF16);
  const ExpertSource source = {.gate = host.matrix(), .up = host.matrix(), .down = host.matrix()};
  const std::vector<ExpertSource> sources(3, source);
  const auto experts = backend->LoadExperts(sources, WeightFormat::kStored);
  ASSERT_TRUE(experts.ok()) << experts.status();
  const Tensor x(*backend, DType::kBF16, 16, RandomValues(5 * 16, 2, DType::kBF16));
  const Tensor mid(*backend, DType::kBF16, 5, 16);
  const int before = cuda_emulation::NumKernelsRun();
  constexpr int kCalls = 5000;  // each uploads offsets: more than the staging memory holds at once
  for (int i = 0; i < kCalls; ++i) {
    std::vector<int32_t> offsets = {0, 2, 2, i + 1 < kCalls ? 2 : 5};
    backend->ExpertsGateUp(
        {.x = x.view(), .experts = experts->get(), .expert_offsets = offsets, .out = mid.view()});
    if (i == 0) {
      EXPECT_EQ(cuda_emulation::NumKernelsRun(), before);
    }
    std::fill(offsets.begin(), offsets.end(), -1);
  }
  EXPECT_LT(cuda_emulation::NumKernelsRun(), before + kCalls);
  const auto values = mid.values();
  EXPECT_EQ(cuda_emulation::NumKernelsRun(), before + kCalls);
  for (float value : values) EXPECT_FALSE(std::isnan(value));
}

}  // namespace
}  // namespace moed::kernels::cuda
