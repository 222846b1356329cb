#include "engine/weights/weight_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/weights/checkpoint.h"
#include "engine/weights/tensor_source.h"
#include "tests/engine/weights/temp_dir.h"
#include "tests/fakes/weights_backend.h"

namespace moed {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string ModelDir(const std::string& name) {
  return absl::StrCat(MOED_SOURCE_DIR, "/tests/testdata/models/", name);
}

std::vector<std::string> AllModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(ModelDir(""))) {
    if (entry.is_directory()) names.push_back(entry.path().filename());
  }
  return names;
}

const FakeLinear& Fake(const std::shared_ptr<kernels::LinearWeights>& weights) {
  return dynamic_cast<const FakeLinear&>(*weights);
}
const FakeLinear& Fake(const std::unique_ptr<kernels::LinearWeights>& weights) {
  return dynamic_cast<const FakeLinear&>(*weights);
}
const FakeExperts& Fake(const std::unique_ptr<kernels::ExpertWeights>& weights) {
  return dynamic_cast<const FakeExperts&>(*weights);
}

ExpertPlacement LinearFor(const ModelConfig& config, int32_t num_ranks) {
  return ExpertPlacement::Linear(static_cast<int32_t>(config.num_moe_layers()),
                                 static_cast<int32_t>(config.num_experts), num_ranks);
}

// A model directory with what one rank loads of it.
class LoadedModel {
 public:
  explicit LoadedModel(const std::string& dir) : LoadedModel(dir, std::nullopt) {}
  LoadedModel(const std::string& dir, std::optional<ExpertPlacement> placement, int32_t rank = 0)
      : config(*LoadModelConfig(dir)), checkpoint(*Checkpoint::Open(dir)) {
    const WeightLoaderOptions options = {.model_dir = dir, .rank = rank};
    auto loaded = LoadWeights(config, placement.value_or(LinearFor(config, 1)), options, backend);
    EXPECT_TRUE(loaded.ok()) << loaded.status();
    if (loaded.ok()) weights = *std::move(loaded);
  }

  // The stored values of a tensor.
  std::vector<float> Stored(const std::string& name) const {
    const Checkpoint::Tensor* tensor = checkpoint.Find(name);
    if (tensor == nullptr) return {};
    const std::span<const std::byte> data = tensor->file->Data(*tensor->info);
    const DType dtype = *tensor->info->dtype;
    return ToFloat({.data = data.data(),
                    .dtype = dtype,
                    .rows = 1,
                    .cols = static_cast<int64_t>(data.size() / SizeBytes(dtype))});
  }
  std::vector<float> Stored(const std::string& name, int64_t begin, int64_t size) const {
    const std::vector<float> all = Stored(name);
    return {all.begin() + begin, all.begin() + begin + size};
  }
  std::vector<float> Norm(const kernels::Buffer& buffer) const {
    const float* values = buffer.as<float>();
    return {values, values + buffer.size_bytes() / sizeof(float)};
  }

  ModelConfig config;
  Checkpoint checkpoint;
  WeightsBackend backend;
  ModelWeights weights;  // after backend, which must outlive it
};

std::vector<float> Joined(std::initializer_list<std::vector<float>> parts) {
  std::vector<float> all;
  for (const std::vector<float>& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(WeightLoaderTest, EveryFixtureLoadsWithTheShapesOfItsConfig) {
  const std::vector<std::string> names = AllModels();
  ASSERT_GE(names.size(), 12u);
  for (const std::string& name : names) {
    SCOPED_TRACE(name);
    const LoadedModel model(ModelDir(name));
    const ModelConfig& config = model.config;
    ASSERT_EQ(model.weights.layers.size(), static_cast<size_t>(config.num_layers));
    EXPECT_EQ(Fake(model.weights.embedding).rows, config.vocab_size);
    EXPECT_EQ(model.weights.lm_head == model.weights.embedding, config.tie_word_embeddings);
    for (int64_t i = 0; i < config.num_layers; ++i) {
      const LayerWeights& layer = model.weights.layers[i];
      EXPECT_EQ(Fake(layer.qkv).rows,
                (config.num_heads + 2 * config.num_kv_heads) * config.head_dim);
      EXPECT_EQ(Fake(layer.qkv).bias.empty(), !config.qkv_bias);
      EXPECT_EQ(Fake(layer.o_proj).bias.empty(), !config.o_bias);
      EXPECT_EQ(layer.dense != nullptr, !config.layer_is_moe[i]);
      EXPECT_EQ(layer.router != nullptr, config.layer_is_moe[i]);
      EXPECT_EQ(layer.experts != nullptr, config.layer_is_moe[i]);
      EXPECT_EQ(layer.shared != nullptr,
                config.layer_is_moe[i] && config.shared_intermediate_size > 0);
    }
  }
}

TEST(WeightLoaderTest, ReadsPerExpertTensors) {
  const LoadedModel model(ModelDir("qwen3_moe_basic"));
  const LayerWeights& layer = model.weights.layers[1];
  const std::string p = "model.layers.1.";
  EXPECT_EQ(Fake(model.weights.embedding).values, model.Stored("model.embed_tokens.weight"));
  EXPECT_EQ(Fake(model.weights.lm_head).values, model.Stored("lm_head.weight"));
  EXPECT_EQ(model.Norm(model.weights.final_norm), model.Stored("model.norm.weight"));
  EXPECT_EQ(model.Norm(layer.input_norm), model.Stored(p + "input_layernorm.weight"));
  EXPECT_EQ(model.Norm(layer.post_attention_norm),
            model.Stored(p + "post_attention_layernorm.weight"));
  EXPECT_EQ(model.Norm(layer.q_norm), model.Stored(p + "self_attn.q_norm.weight"));
  EXPECT_EQ(model.Norm(layer.k_norm), model.Stored(p + "self_attn.k_norm.weight"));
  EXPECT_EQ(Fake(layer.qkv).values, Joined({model.Stored(p + "self_attn.q_proj.weight"),
                                            model.Stored(p + "self_attn.k_proj.weight"),
                                            model.Stored(p + "self_attn.v_proj.weight")}));
  EXPECT_EQ(Fake(layer.o_proj).values, model.Stored(p + "self_attn.o_proj.weight"));
  EXPECT_EQ(Fake(layer.router).values, model.Stored(p + "mlp.gate.weight"));
  ASSERT_EQ(Fake(layer.experts).experts.size(), 8u);
  const FakeExperts::Expert& expert = Fake(layer.experts).experts[5];
  EXPECT_EQ(expert.gate, model.Stored(p + "mlp.experts.5.gate_proj.weight"));
  EXPECT_EQ(expert.up, model.Stored(p + "mlp.experts.5.up_proj.weight"));
  EXPECT_EQ(expert.down, model.Stored(p + "mlp.experts.5.down_proj.weight"));
}

TEST(WeightLoaderTest, ReadsMixtralNames) {
  const LoadedModel model(ModelDir("mixtral_basic"));
  const std::string p = "model.layers.0.block_sparse_moe.";
  const LayerWeights& layer = model.weights.layers[0];
  EXPECT_EQ(Fake(layer.router).values, model.Stored(p + "gate.weight"));
  const FakeExperts::Expert& expert = Fake(layer.experts).experts[3];
  EXPECT_EQ(expert.gate, model.Stored(p + "experts.3.w1.weight"));
  EXPECT_EQ(expert.up, model.Stored(p + "experts.3.w3.weight"));
  EXPECT_EQ(expert.down, model.Stored(p + "experts.3.w2.weight"));
}

// The gate and up halves and the slab of `expert` of fused tensors.
void ExpectFused(const LoadedModel& model, const std::string& gate_up, const std::string& down) {
  const int64_t size = model.config.moe_intermediate_size * model.config.hidden_size;
  const std::vector<FakeExperts::Expert>& experts = Fake(model.weights.layers[1].experts).experts;
  ASSERT_EQ(experts.size(), static_cast<size_t>(model.config.num_experts));
  for (int64_t e = 0; e < model.config.num_experts; ++e) {
    EXPECT_EQ(experts[e].gate, model.Stored(gate_up, 2 * e * size, size));
    EXPECT_EQ(experts[e].up, model.Stored(gate_up, (2 * e + 1) * size, size));
    EXPECT_EQ(experts[e].down, model.Stored(down, e * size, size));
  }
}

TEST(WeightLoaderTest, ReadsFusedTensorsUnderEveryName) {
  const std::string p = "model.layers.1.";
  ExpectFused(LoadedModel(ModelDir("qwen3_moe_fused")), p + "mlp.experts.gate_up_proj",
              p + "mlp.experts.down_proj");
  ExpectFused(LoadedModel(ModelDir("mixtral_fused")), p + "mlp.experts.gate_up_proj.weight",
              p + "mlp.experts.down_proj.weight");
  ExpectFused(LoadedModel(ModelDir("mixtral_fused_old_prefix")),
              p + "block_sparse_moe.experts.gate_up_proj",
              p + "block_sparse_moe.experts.down_proj");
  ExpectFused(LoadedModel(ModelDir("granitemoe_bias")), p + "block_sparse_moe.input_linear.weight",
              p + "block_sparse_moe.output_linear.weight");
  ExpectFused(LoadedModel(ModelDir("granitemoe_fused")),
              p + "block_sparse_moe.experts.gate_up_proj",
              p + "block_sparse_moe.experts.down_proj");
}

TEST(WeightLoaderTest, ReadsBiasesAndTheGatedSharedExpert) {
  const LoadedModel model(ModelDir("qwen2_moe_basic"));
  const LayerWeights& layer = model.weights.layers[0];
  const std::string p = "model.layers.0.";
  EXPECT_EQ(Fake(layer.qkv).bias, Joined({model.Stored(p + "self_attn.q_proj.bias"),
                                          model.Stored(p + "self_attn.k_proj.bias"),
                                          model.Stored(p + "self_attn.v_proj.bias")}));
  const FakeExperts::Expert& shared = Fake(layer.shared).experts.at(0);
  EXPECT_EQ(shared.gate, model.Stored(p + "mlp.shared_expert.gate_proj.weight"));
  EXPECT_EQ(shared.up, model.Stored(p + "mlp.shared_expert.up_proj.weight"));
  EXPECT_EQ(shared.down, model.Stored(p + "mlp.shared_expert.down_proj.weight"));
  EXPECT_EQ(Fake(layer.shared_gate).values, model.Stored(p + "mlp.shared_expert_gate.weight"));
  EXPECT_EQ(Fake(LoadedModel(ModelDir("olmoe_clip_and_bias")).weights.layers[0].o_proj).bias.size(),
            48u);
}

TEST(WeightLoaderTest, ReadsGranitesSharedMlp) {
  const LoadedModel model(ModelDir("granitemoeshared_basic"));
  const LayerWeights& layer = model.weights.layers[1];
  const std::string input = "model.layers.1.shared_mlp.input_linear.weight";
  const int64_t size = model.config.shared_intermediate_size * model.config.hidden_size;
  const FakeExperts::Expert& shared = Fake(layer.shared).experts.at(0);
  EXPECT_EQ(shared.gate, model.Stored(input, 0, size));
  EXPECT_EQ(shared.up, model.Stored(input, size, size));
  EXPECT_EQ(shared.down, model.Stored("model.layers.1.shared_mlp.output_linear.weight"));
  EXPECT_EQ(layer.shared_gate, nullptr);
}

TEST(WeightLoaderTest, ReadsDenseLayers) {
  const LoadedModel model(ModelDir("qwen3_moe_dense_layers"));
  const FakeExperts::Expert& dense = Fake(model.weights.layers[2].dense).experts.at(0);
  EXPECT_EQ(dense.gate, model.Stored("model.layers.2.mlp.gate_proj.weight"));
  EXPECT_EQ(dense.up, model.Stored("model.layers.2.mlp.up_proj.weight"));
  EXPECT_EQ(dense.down, model.Stored("model.layers.2.mlp.down_proj.weight"));
}

TEST(WeightLoaderTest, ARankHoldsTheExpertsOfItsSlotsInSlotOrder) {
  const LoadedModel whole(ModelDir("qwen3_moe_basic"));
  ExpertPlacement placement = LinearFor(whole.config, 3);
  placement.layers[0] = {{7, 0, 1, 6, 2, 3, 4, 5, 7}, {0, 4, 8, 9}};
  placement.layers[1] = {{0, 1, 2, 3, 4, 5, 6, 7}, {0, 8, 8, 8}};
  const auto& all = Fake(whole.weights.layers[0].experts).experts;
  const LoadedModel first(ModelDir("qwen3_moe_basic"), placement, 0);
  EXPECT_THAT(Fake(first.weights.layers[0].experts).experts,
              ElementsAre(all[7], all[0], all[1], all[6]));
  const LoadedModel last(ModelDir("qwen3_moe_basic"), placement, 2);
  EXPECT_THAT(Fake(last.weights.layers[0].experts).experts, ElementsAre(all[7]));
  EXPECT_EQ(last.weights.layers[1].experts, nullptr);
  EXPECT_NE(last.weights.layers[1].router, nullptr);
  EXPECT_LT(last.weights.size_bytes, whole.weights.size_bytes);
}

TEST(WeightLoaderTest, TheSizeIsWhatWeightBytesForetells) {
  for (const std::string& name : AllModels()) {
    const LoadedModel model(ModelDir(name));
    const auto bytes =
        WeightBytes(model.config, LinearFor(model.config, 1), {.stored_dtype = DType::kF32});
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    int64_t biases = 0;  // the fake counts none of them
    for (const LayerWeights& layer : model.weights.layers) {
      biases += (Fake(layer.qkv).bias.size() + Fake(layer.o_proj).bias.size()) * sizeof(float);
    }
    EXPECT_EQ(model.weights.size_bytes + biases, *bytes) << name;
  }
}

TEST(WeightLoaderTest, EveryMatrixIsAskedForInTheFormatOfItsKind) {
  using kernels::WeightFormat;
  for (const char* name : {"qwen2_moe_dense_layers", "granitemoeshared_basic", "mixtral_basic"}) {
    SCOPED_TRACE(name);
    const std::string dir = ModelDir(name);
    const ModelConfig config = *LoadModelConfig(dir);
    const bool tied = config.tie_word_embeddings;
    WeightsBackend backend;
    const auto weights =
        LoadWeights(config, LinearFor(config, 1),
                    {.model_dir = dir, .weight_format = WeightFormat::kInt4}, backend);
    ASSERT_TRUE(weights.ok()) << weights.status();
    EXPECT_EQ(Fake(weights->lm_head).format, WeightFormat::kInt8);
    EXPECT_EQ(Fake(weights->embedding).format, tied ? WeightFormat::kInt8 : WeightFormat::kStored);
    for (const LayerWeights& layer : weights->layers) {
      EXPECT_EQ(Fake(layer.qkv).format, WeightFormat::kInt4);
      EXPECT_EQ(Fake(layer.o_proj).format, WeightFormat::kInt4);
      for (const auto* linear : {&layer.router, &layer.shared_gate}) {
        EXPECT_TRUE(!*linear || Fake(*linear).format == WeightFormat::kStored);
      }
      for (const auto* experts : {&layer.experts, &layer.shared, &layer.dense}) {
        EXPECT_TRUE(!*experts || Fake(*experts).format == WeightFormat::kInt4);
      }
    }
  }
}

TEST(WeightLoaderTest, SaysWhetherAllMatricesAreStoredAsBf16) {
  const std::pair<const char*, DType> expected[] = {{"qwen3_moe_basic", DType::kBF16},
                                                    {"qwen3_moe_sharded", DType::kBF16},
                                                    {"mixtral_fused", DType::kF32},
                                                    {"granitemoe_fused", DType::kF32}};  // f16
  for (const auto& [name, dtype] : expected) {
    const std::string dir = ModelDir(name);
    const auto stored = StoredMatrixDType(*LoadModelConfig(dir), {.model_dir = dir});
    ASSERT_TRUE(stored.ok()) << stored.status();
    EXPECT_EQ(*stored, dtype) << name;
    EXPECT_EQ(*StoredMatrixDType(*LoadModelConfig(dir), {.format = LoadFormat::kDummy}),
              DType::kBF16);
  }
  EXPECT_TRUE(absl::IsNotFound(
      StoredMatrixDType(*LoadModelConfig(ModelDir("mixtral_fused")), {.model_dir = "/nowhere"})
          .status()));
}

TEST(WeightLoaderTest, ProgressEndsAtTheTotal) {
  const std::string dir = ModelDir("granitemoe_fused");
  const ModelConfig config = *LoadModelConfig(dir);
  int64_t last_done = 0, last_total = 0;
  WeightLoaderOptions options = {.model_dir = dir};
  options.progress = [&](int64_t done, int64_t total) {
    EXPECT_GT(done, last_done);
    EXPECT_LE(done, total);
    last_done = done;
    last_total = total;
  };
  WeightsBackend backend;
  ASSERT_TRUE(LoadWeights(config, LinearFor(config, 1), options, backend).ok());
  EXPECT_EQ(last_done, last_total);
}

TEST(WeightLoaderTest, LoadingStopsWhenItIsCancelled) {
  const std::string dir = ModelDir("mixtral_basic");
  const ModelConfig config = *LoadModelConfig(dir);
  WeightLoaderOptions options = {.model_dir = dir};
  int polls = 0;
  options.cancelled = [&polls] { return ++polls == 3; };
  WeightsBackend backend;
  const absl::Status status = LoadWeights(config, LinearFor(config, 1), options, backend).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(polls, 3);
  EXPECT_EQ(backend.allocated_bytes(), 0);
}

TEST(WeightLoaderTest, WhatTheBackendRefusesIsNamed) {
  const std::string dir = ModelDir("mixtral_basic");
  const ModelConfig config = *LoadModelConfig(dir);
  WeightsBackend backend;
  backend.FailNextLoad(absl::ResourceExhaustedError("no memory"));
  const absl::Status status =
      LoadWeights(config, LinearFor(config, 1), {.model_dir = dir}, backend).status();
  EXPECT_EQ(status, absl::ResourceExhaustedError("loading 'model.embed_tokens.weight': no memory"));
}

TEST(WeightLoaderTest, APlacementForAnotherModelIsRefused) {
  const std::string dir = ModelDir("mixtral_basic");
  const ModelConfig config = *LoadModelConfig(dir);
  WeightsBackend backend;
  const auto error = [&](const ExpertPlacement& placement, int32_t rank) {
    const WeightLoaderOptions options = {.model_dir = dir, .rank = rank};
    const absl::Status status = LoadWeights(config, placement, options, backend).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(error(ExpertPlacement::Linear(3, 4, 1), 0), HasSubstr("it has 3 layers of 4"));
  EXPECT_THAT(error(ExpertPlacement::Linear(2, 5, 1), 0), HasSubstr("2 layers of 5 experts"));
  EXPECT_THAT(error(ExpertPlacement::Linear(2, 4, 2), 2), HasSubstr("rank 2 is not one of"));
  EXPECT_THAT(error(ExpertPlacement::Linear(2, 4, 2), -1), HasSubstr("rank -1"));
}

// Tensors of a small model that a test may change before they are written.
class CheckTensorsTest : public testing::Test {
 protected:
  struct Stored {
    std::vector<int64_t> shape;
    std::string dtype = "BF16";
    int64_t element_bytes = 2;
  };

  CheckTensorsTest() {
    const std::string source = ModelDir("mixtral_basic");
    std::filesystem::copy(source + "/config.json", dir_.path());
    const Checkpoint checkpoint = *Checkpoint::Open(source);
    for (const auto& [name, tensor] : checkpoint.tensors()) {
      tensors_[name] = {tensor.info->shape};
    }
  }

  std::string LoadError() {
    const absl::Status status = Load();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(dir_.path()));
    return std::string(status.message());
  }

  absl::Status Load() {
    std::string header("{");
    const char* separator = "";
    int64_t end = 0;
    for (const auto& [name, tensor] : tensors_) {
      int64_t size = tensor.element_bytes;
      for (const int64_t dim : tensor.shape) size *= dim;
      absl::StrAppend(&header, separator, "\"", name, "\": {\"dtype\": \"", tensor.dtype,
                      "\", \"shape\": [", absl::StrJoin(tensor.shape, ","),
                      "], \"data_offsets\": [", end, ", ", end + size, "]}");
      separator = ",";
      end += size;
    }
    dir_.Write("model.safetensors",
               SafetensorsBytes(absl::StrCat(header, "}"), std::string(end, '\0')));
    const ModelConfig config = *LoadModelConfig(dir_.path());
    WeightsBackend backend;
    return LoadWeights(config, LinearFor(config, 1), {.model_dir = dir_.path()}, backend).status();
  }

  TempDir dir_;
  std::map<std::string, Stored> tensors_;
};

TEST_F(CheckTensorsTest, MissingTensorsAreNamedWithTheirShape) {
  tensors_.erase("model.layers.1.block_sparse_moe.experts.2.w3.weight");
  tensors_.erase("model.norm.weight");
  EXPECT_THAT(
      LoadError(),
      HasSubstr("; 2 missing: model.layers.1.block_sparse_moe.experts.2.w3.weight [48, 64], "
                "model.norm.weight [64]"));
}

TEST_F(CheckTensorsTest, AMissingFirstExpertIsNamed) {
  tensors_.erase("model.layers.1.block_sparse_moe.experts.0.w1.weight");
  EXPECT_THAT(LoadError(),
              HasSubstr("1 missing: model.layers.1.block_sparse_moe.experts.0.w1.weight [48, 64]"));
}

TEST_F(CheckTensorsTest, MisshapenTensorsAreNamedWithBothShapes) {
  tensors_["lm_head.weight"].shape = {64, 128};
  EXPECT_THAT(LoadError(), HasSubstr("; 1 of wrong shape or type: lm_head.weight is [64, 128], "
                                     "expected [128, 64]"));
}

TEST_F(CheckTensorsTest, SurplusTensorsAreNamed) {
  tensors_["model.layers.0.self_attn.q_proj.bias"] = {{64}};
  EXPECT_THAT(LoadError(), HasSubstr("; 1 surplus: model.layers.0.self_attn.q_proj.bias [64]"));
}

TEST_F(CheckTensorsTest, OnlyTheFirstFewOfManyAreNamed) {
  for (int i = 0; i < 9; ++i) tensors_[absl::StrCat("extra.", i)] = {{1}};
  const std::string error = LoadError();
  EXPECT_THAT(error, HasSubstr("; 9 surplus: extra.0 [1]"));
  EXPECT_THAT(error, HasSubstr("extra.4 [1], ..."));
}

TEST_F(CheckTensorsTest, TypesThatEnginesLackAreRefused) {
  tensors_["model.norm.weight"] = {{64}, "F8_E4M3", 1};
  EXPECT_THAT(LoadError(), HasSubstr("model.norm.weight is F8_E4M3, expected F32, BF16 or F16"));
  tensors_["model.norm.weight"] = {{64}, "I32", 4};
  EXPECT_THAT(LoadError(), HasSubstr("model.norm.weight is I32"));
}

TEST_F(CheckTensorsTest, RotaryFrequenciesAreIgnored) {
  tensors_["model.layers.0.self_attn.rotary_emb.inv_freq"] = {{8}, "F32", 4};
  EXPECT_TRUE(Load().ok());
}

TEST_F(CheckTensorsTest, AHeadBesideATiedEmbeddingIsIgnored) {
  std::ifstream in(dir_.path() + "/config.json");
  std::string config((std::istreambuf_iterator<char>(in)), std::istreambuf_iterator<char>());
  const std::string untied = "\"tie_word_embeddings\": false";
  const size_t at = config.find(untied);
  ASSERT_NE(at, std::string::npos);
  dir_.Write("config.json", config.replace(at, untied.size(), "\"tie_word_embeddings\": true"));
  EXPECT_TRUE(Load().ok());
}

TEST_F(CheckTensorsTest, ATruncatedFileIsDataLoss) {
  ASSERT_TRUE(Load().ok());
  const std::string path = dir_.path() + "/model.safetensors";
  std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
  const ModelConfig config = *LoadModelConfig(dir_.path());
  WeightsBackend backend;
  EXPECT_EQ(LoadWeights(config, LinearFor(config, 1), {.model_dir = dir_.path()}, backend)
                .status()
                .code(),
            absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace moed
