#include "tests/kernels/op_test_util.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "kernels/cpu/instruction_sets.h"
#include "kernels/float_convert.h"
#ifdef MOED_CUDA_EMULATION
#include "kernels/cuda/cuda_backend.h"
#endif

namespace moed::kernels {

std::string ConfigName(const testing::TestParamInfo<OpConfig>& info) {
  std::string name = info.param.device == "cpu" ? info.param.instruction_set : info.param.device;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return c == '-' || c == ':'; }, '_');
  return name + "_" + std::string(Name(info.param.dtype));
}

void PrintTo(const OpConfig& config, std::ostream* out) {
  *out << config.device << " " << config.instruction_set << " " << Name(config.dtype);
}

std::vector<OpConfig> AllConfigs() {
  std::vector<OpConfig> configs;
  for (const cpu::KernelTable& set : cpu::AvailableInstructionSets()) {
    configs.push_back({set.name, DType::kBF16});
    configs.push_back({set.name, DType::kF32});
  }
#ifdef MOED_CUDA_EMULATION
  configs.push_back({"", DType::kBF16, "cuda-emulation:0"});
#else
  if (CreateBackend({.device = "cuda:0"}).ok()) configs.push_back({"", DType::kBF16, "cuda:0"});
#endif
  return configs;
}

std::vector<int> ThreadCounts(const OpConfig& config) {
  return config.device == "cpu" ? std::vector<int>{1, 2, 3} : std::vector<int>{1};
}

std::unique_ptr<Backend> MakeBackend(const OpConfig& config, int num_threads) {
#ifdef MOED_CUDA_EMULATION
  if (config.device == "cuda-emulation:0") {
    auto emulated = cuda::CreateCudaBackend({.device = "cuda:0"});
    EXPECT_TRUE(emulated.ok()) << emulated.status();
    return *std::move(emulated);
  }
#endif
  auto backend = CreateBackend({.device = config.device,
                                .activation_dtype = config.dtype,
                                .num_threads = num_threads,
                                .instruction_set = config.instruction_set});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}

Tolerance ToleranceOf(DType activation_dtype) {
  if (activation_dtype == DType::kF32) return {.f32_output = 5e-6f, .activation_output = 5e-6f};
  return {.f32_output = 2e-5f, .activation_output = 1e-2f};
}

uint16_t ToBf16Bits(float x) { return FloatToBf16(x); }

uint16_t ToF16Bits(float x) {
  // Rounds by adding a number whose last place is f16's at the magnitude of x; tests use normal
  // values.
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
  const int32_t exponent = static_cast<int32_t>((rounded >> 23) & 0xffu) - 112;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  if (exponent <= 0) return static_cast<uint16_t>(sign);  // subnormals become 0
  return static_cast<uint16_t>(sign | (exponent << 10) | ((rounded >> 13) & 0x3ffu));
}

float RoundTo(DType dtype, float x) {
  if (dtype == DType::kBF16) return Bf16ToFloat(ToBf16Bits(x));
  if (dtype == DType::kF16) return F16ToFloat(ToF16Bits(x));
  return x;
}

std::vector<float> RandomValues(int64_t n, uint32_t seed, DType dtype, float scale) {
  const char* other_seed = std::getenv("MOED_TEST_SEED");
  if (other_seed != nullptr) seed += static_cast<uint32_t>(std::strtoul(other_seed, nullptr, 10));
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(n);
  for (float& x : values) x = RoundTo(dtype, scale * normal(random));
  return values;
}

Tensor::Tensor(Backend& backend, DType dtype, int64_t rows, int64_t cols)
    : backend_(backend),
      dtype_(dtype),
      rows_(rows),
      cols_(cols),
      buffer_(*backend.Allocate(rows * cols * static_cast<int64_t>(SizeBytes(dtype)))) {
  const std::vector<uint8_t> poison(buffer_.size_bytes(), 0xff);
  backend.CopyToDevice(buffer_.data(), poison.data(), buffer_.size_bytes());
}

Tensor::Tensor(Backend& backend, DType dtype, int64_t cols, const std::vector<float>& values)
    : Tensor(backend, dtype, cols == 0 ? 0 : static_cast<int64_t>(values.size()) / cols, cols) {
  if (dtype == DType::kF32) {
    backend.CopyToDevice(buffer_.data(), values.data(), buffer_.size_bytes());
    return;
  }
  std::vector<uint16_t> bits;
  for (float x : values) bits.push_back(ToBf16Bits(x));
  backend.CopyToDevice(buffer_.data(), bits.data(), buffer_.size_bytes());
}

std::vector<uint8_t> Tensor::bytes() const {
  EXPECT_TRUE(backend_.Synchronize().ok());
  std::vector<uint8_t> bytes(buffer_.size_bytes());
  backend_.CopyToHost(bytes.data(), buffer_.data(), buffer_.size_bytes());
  return bytes;
}

std::vector<uint8_t> Tensor::row_bytes(int64_t row) const {
  const std::vector<uint8_t> all = bytes();
  const int64_t n = cols_ * static_cast<int64_t>(SizeBytes(dtype_));
  return {all.begin() + row * n, all.begin() + (row + 1) * n};
}

std::vector<float> Tensor::values() const {
  const std::vector<uint8_t> raw = bytes();
  std::vector<float> values(rows_ * cols_);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype_ == DType::kF32) {
      std::memcpy(&values[i], raw.data() + 4 * i, 4);
    } else {
      uint16_t bits;
      std::memcpy(&bits, raw.data() + 2 * i, 2);
      values[i] = Bf16ToFloat(bits);
    }
  }
  return values;
}

IntArray::IntArray(Backend& backend, const std::vector<int32_t>& values)
    : buffer_(*backend.Allocate(static_cast<int64_t>(values.size()) * 4)) {
  backend.CopyToDevice(buffer_.data(), values.data(), buffer_.size_bytes());
}

HostWeights::HostWeights(const std::vector<float>& values, int64_t cols, DType dtype,
                         int64_t stride)
    : dtype_(dtype),
      rows_(static_cast<int64_t>(values.size()) / cols),
      cols_(cols),
      stride_(stride == 0 ? cols : stride) {
  const int64_t size = static_cast<int64_t>(SizeBytes(dtype));
  bytes_.assign(((rows_ - 1) * stride_ + cols_) * size, 0xff);
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t c = 0; c < cols_; ++c) {
      const float x = values[r * cols_ + c];
      uint8_t* at = bytes_.data() + (r * stride_ + c) * size;
      const uint16_t half = dtype == DType::kBF16 ? ToBf16Bits(x) : ToF16Bits(x);
      dtype == DType::kF32 ? std::memcpy(at, &x, 4) : std::memcpy(at, &half, 2);
    }
  }
}

HostMatrix HostWeights::matrix() const { return {bytes_.data(), dtype_, rows_, cols_, stride_}; }

void ExpectClose(const std::vector<float>& got, const std::vector<float>& expected, float tolerance,
                 const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  double square = 0;
  for (float x : expected) square += static_cast<double>(x) * x;
  const double typical =
      expected.empty() ? 0 : std::sqrt(square / static_cast<double>(expected.size()));
  for (size_t i = 0; i < got.size(); ++i) {
    const double limit = tolerance * (std::abs(expected[i]) + typical);
    // Written so that a NaN fails.
    ASSERT_TRUE(std::abs(got[i] - expected[i]) <= limit)
        << what << ": element " << i << " is " << got[i] << ", expected " << expected[i];
  }
}

}  // namespace moed::kernels
