/// Checkpoints whose projections are e4m3 with a scale for each block of 128 x 128.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/strings/str_replace.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/weight_loader.h"
#include "tests/engine/weights/temp_dir.h"
#include "tests/fakes/weights_backend.h"

namespace moed {
namespace {

using testing::HasSubstr;

std::string ModelDir(const std::string& name) {
  return std::string(MOED_SOURCE_DIR) + "/tests/testdata/models/" + name;
}

ExpertPlacement OneRank(const ModelConfig& config) {
  return ExpertPlacement::Linear(static_cast<int32_t>(config.num_moe_layers()),
                                 static_cast<int32_t>(config.num_experts), 1);
}

/// By the definition of the format: sign, 4 bits of exponent with bias 7, 3 bits of mantissa.
float F8Value(uint8_t bits) {
  const int exponent = (bits >> 3) & 15, mantissa = bits & 7;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -9)
                              : std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
  return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

/// A model directory and what one rank loads of it.
class Fp8Model {
 public:
  explicit Fp8Model(const std::string& name)
      : config(*LoadModelConfig(ModelDir(name))), checkpoint(*Checkpoint::Open(ModelDir(name))) {
    auto loaded = LoadWeights(config, OneRank(config), {.model_dir = ModelDir(name)}, backend);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (loaded.ok()) weights = *std::move(loaded);
  }

  const std::byte* Data(const std::string& name) const {
    const Checkpoint::Tensor* tensor = checkpoint.Find(name);
    return tensor == nullptr ? nullptr : tensor->file->Data(*tensor->info).data();
  }

  /// Rows [begin, begin + rows) of matrix `index` of a tensor [.., N, K], as they should be read.
  struct Part {
    int64_t index = 0;
    int64_t n = 0;
    int64_t k = 0;
    int64_t begin = 0;
    int64_t rows = 0;
    bool bf16_scales = true;
  };
  std::vector<float> Expected(const std::string& name, const Part& p) const {
    const int64_t block_rows = (p.n + 127) / 128, block_columns = (p.k + 127) / 128;
    const std::byte* bytes = Data(name);
    const std::byte* scales = Data(name + "_scale_inv");
    std::vector<float> values;
    for (int64_t r = p.begin; r < p.begin + p.rows; ++r) {
      for (int64_t c = 0; c < p.k; ++c) {
        const auto bits = static_cast<uint8_t>(bytes[(p.index * p.n + r) * p.k + c]);
        const int64_t block = (p.index * block_rows + r / 128) * block_columns + c / 128;
        uint32_t scale = 0;
        if (p.bf16_scales) {
          uint16_t half;
          std::memcpy(&half, scales + 2 * block, 2);
          scale = uint32_t{half} << 16;
        } else {
          std::memcpy(&scale, scales + 4 * block, 4);
        }
        values.push_back(F8Value(bits) * std::bit_cast<float>(scale));
      }
    }
    return values;
  }

  ModelConfig config;
  Checkpoint checkpoint;
  WeightsBackend backend;
  ModelWeights weights;  // after backend, which must outlive it
};

const FakeExperts& Experts(const LayerWeights& layer) {
  return dynamic_cast<const FakeExperts&>(*layer.experts);
}

TEST(Fp8WeightsTest, MatricesComeWithTheScalesOfTheirBlocks) {
  const Fp8Model model("qwen3_moe_fp8");
  ASSERT_TRUE(model.config.fp8_weights);
  const LayerWeights& layer = model.weights.layers[1];
  const std::string p = "model.layers.1.";
  const FakeExperts::Expert& expert = Experts(layer).experts[2];
  EXPECT_EQ(expert.gate, model.Expected(p + "mlp.experts.2.gate_proj.weight",
                                        {.n = 132, .k = 144, .rows = 132}));
  EXPECT_EQ(expert.down, model.Expected(p + "mlp.experts.2.down_proj.weight",
                                        {.n = 144, .k = 132, .rows = 144}));
  const auto& o_proj = dynamic_cast<const FakeLinear&>(*layer.o_proj);
  EXPECT_EQ(o_proj.values,
            model.Expected(p + "self_attn.o_proj.weight", {.n = 144, .k = 64, .rows = 144}));
}

TEST(Fp8WeightsTest, UpMayBeginInsideABlockOfAFusedTensor) {
  const Fp8Model model("qwen3_moe_fp8_fused");
  const std::string p = "model.layers.0.mlp.experts.";
  const FakeExperts::Expert& expert = Experts(model.weights.layers[0]).experts[3];
  const auto part = [](int64_t begin) {
    return Fp8Model::Part{
        .index = 3, .n = 144, .k = 64, .begin = begin, .rows = 72, .bf16_scales = false};
  };
  EXPECT_EQ(expert.gate, model.Expected(p + "gate_up_proj", part(0)));
  EXPECT_EQ(expert.up, model.Expected(p + "gate_up_proj", part(72)));
  EXPECT_EQ(expert.down,
            model.Expected(p + "down_proj",
                           {.index = 3, .n = 64, .k = 72, .rows = 64, .bf16_scales = false}));
}

TEST(Fp8WeightsTest, TheTypeOfStoredMatricesIsKnownFromTheHeaders) {
  const std::string dir = ModelDir("qwen3_moe_fp8");
  const ModelConfig config = *LoadModelConfig(dir);
  EXPECT_EQ(*StoredMatrixDType(config, {.model_dir = dir}), DType::kF8E4M3);
  EXPECT_EQ(*StoredMatrixDType(config, {.format = LoadFormat::kDummy}), DType::kBF16);
  const auto bytes = [&](DType stored) {
    return *WeightBytes(config, OneRank(config), {.stored_dtype = stored});
  };
  // What is not a projection is the same; one scale for 128 elements of a row.
  const int64_t projections = 2 * (128 * 144 + 144 * 64 + 3 * 3 * 132 * 144);
  const int64_t blocks = 2 * (128 * 2 + 144 * 1 + 3 * (2 * 132 * 2 + 144 * 2));
  EXPECT_EQ(bytes(DType::kBF16) - bytes(DType::kF8E4M3), projections - 4 * blocks);
}

/// A copy of the fp8 model that a test may spoil.
class SpoiltFp8Test : public testing::Test {
 protected:
  SpoiltFp8Test() {
    for (const char* file : {"config.json", "model.safetensors"}) {
      std::filesystem::copy(ModelDir("qwen3_moe_fp8") + "/" + file, dir_.path());
    }
  }

  void Replace(const std::string& file, const std::string& from, const std::string& to) {
    std::ifstream in(dir_.path() + "/" + file, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
    ASSERT_NE(bytes.find(from), std::string::npos) << from;
    dir_.Write(file, absl::StrReplaceAll(bytes, {{from, to}}));
  }

  std::string Error() {
    const auto config = LoadModelConfig(dir_.path());
    EXPECT_TRUE(config.ok()) << config.status();
    WeightsBackend backend;
    const absl::Status status =
        LoadWeights(*config, OneRank(*config), {.model_dir = dir_.path()}, backend).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }

  TempDir dir_;
};

TEST_F(SpoiltFp8Test, AMissingScaleIsNamed) {
  Replace("model.safetensors", "experts.1.up_proj.weight_scale_inv",
          "experts.1.up_proj.weight_scale_foo");
  const std::string error = Error();
  EXPECT_THAT(error, HasSubstr("; 2 missing: model.layers.0.mlp.experts.1.up_proj.weight_scale_inv "
                               "[2, 2], model.layers.1."));
  EXPECT_THAT(error, HasSubstr("; 2 surplus: "));
}

TEST_F(SpoiltFp8Test, AScaleOfAnotherShapeIsNamed) {
  Replace(
      "model.safetensors",
      R"("model.layers.0.mlp.experts.1.up_proj.weight_scale_inv":{"dtype":"BF16","shape":[2,2])",
      R"("model.layers.0.mlp.experts.1.up_proj.weight_scale_inv":{"dtype":"BF16","shape":[1,4])");
  EXPECT_THAT(Error(), HasSubstr("up_proj.weight_scale_inv is [1, 4], expected [2, 2]"));
}

TEST_F(SpoiltFp8Test, OtherKindsOfFp8AreNamed) {
  Replace("model.safetensors", R"(q_proj.weight":{"dtype":"F8_E4M3")",
          R"(q_proj.weight":{"dtype":"F8_E5M2")");
  EXPECT_THAT(Error(), HasSubstr("self_attn.q_proj.weight is F8_E5M2, expected F8_E4M3, F32, BF16 "
                                 "or F16"));
}

TEST_F(SpoiltFp8Test, AConfigThatDoesNotAnnounceItIsRefused) {
  Replace("config.json", "\"quantization_config\"", "\"unused\"");
  EXPECT_THAT(Error(), HasSubstr("is F8_E4M3, expected F32, BF16 or F16"));
}

}  // namespace
}  // namespace moed
