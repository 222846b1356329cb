/// The forward pass against the transformers library, for every model of tests/testdata/models.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <ostream>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "config/model_config.h"
#include "engine/runtime/parse_dtype.h"
#include "engine/weights/safetensors_file.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/fakes/bare_model.h"

namespace moed {
namespace {

std::string ModelsDir() { return std::string(MOED_SOURCE_DIR) + "/tests/testdata/models"; }

/// What the reference computed for one prompt.
struct ExpectedPrompt {
  std::vector<int32_t> prompt;
  std::vector<float> logits;    // [prompt.size(), V]
  std::vector<int32_t> greedy;  // continuation
  std::vector<double> gaps;     // between the two best logits of each greedy step
};

std::vector<float> ReadLogits(const SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.tensors().find(name);
  if (tensor == file.tensors().end()) return {};
  const std::span<const std::byte> bytes = file.Data(tensor->second);
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

std::vector<ExpectedPrompt> ReadExpected(const std::string& model_dir) {
  std::ifstream text(model_dir + "/expected.json");
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  const auto file = SafetensorsFile::Open(model_dir + "/expected.safetensors");
  if (json.is_discarded() || !file.ok()) return {};
  std::vector<ExpectedPrompt> prompts;
  for (const nlohmann::json& entry : json["prompts"]) {
    prompts.push_back(
        {.prompt = entry["prompt"],
         .logits = ReadLogits(*file, absl::StrCat("prompt_", prompts.size(), ".logits")),
         .greedy = entry["greedy"],
         .gaps = entry["gaps"]});
  }
  return prompts;
}

struct Error {
  double relative_l2 = 0;
  double max_abs = 0;
};

Error Compare(std::span<const float> actual, std::span<const float> expected) {
  double difference = 0;
  double norm = 0;
  double max_abs = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(actual[i]) - expected[i];
    difference += d * d;
    norm += static_cast<double>(expected[i]) * expected[i];
    max_abs = std::max(max_abs, std::abs(d));
  }
  return {std::sqrt(difference / norm), max_abs};
}

int32_t ArgMax(std::span<const float> row) {
  return static_cast<int32_t>(std::max_element(row.begin(), row.end()) - row.begin());
}

struct Case {
  std::string model;
  DType dtype = DType::kF32;
  std::string instruction_set;  // "" = the best of this machine
  std::string device = "cpu";
  kernels::WeightFormat weights = kernels::WeightFormat::kStored;

  EngineDType engine_dtype() const { return {dtype, weights}; }
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.model << " in " << Name(c.engine_dtype()) << " with "
       << (c.instruction_set.empty() ? "the best kernels" : c.instruction_set) << " on "
       << c.device;
}

#ifdef MOED_EMULATED_CUDA
/// Some models of each way of storing weights: the emulated device is slow.
std::vector<std::string> ModelNames() {
  return {"mixtral_basic", "qwen2_moe_dense_layers", "qwen3_moe_fp8", "qwen3_moe_fp8_fused"};
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& model : ModelNames()) {
    cases.push_back({.model = model, .dtype = DType::kBF16, .device = "cuda:0"});
  }
  return cases;
}

std::vector<Case> IntegerCases() {
  std::vector<Case> cases;
  for (const std::string& model : ModelNames()) {
    for (auto format : {kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
      cases.push_back(
          {.model = model, .dtype = DType::kBF16, .device = "cuda:0", .weights = format});
    }
  }
  return cases;
}
#else
/// The models that have expected results, in alphabetical order.
std::vector<std::string> ModelNames() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(ModelsDir())) {
    if (std::filesystem::exists(entry.path() / "expected.json")) {
      names.push_back(entry.path().filename());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string& model : ModelNames()) {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const char* instruction_set : {"", "portable", "avx2", "avx512"}) {
        cases.push_back({model, dtype, instruction_set});
      }
    }
  }
  return cases;
}

/// Models with integer weights, on every instruction set.
std::vector<Case> IntegerCases() {
  std::vector<Case> cases;
  for (const std::string& model : ModelNames()) {
    for (auto format : {kernels::WeightFormat::kInt8, kernels::WeightFormat::kInt4}) {
      for (const char* instruction_set : {"", "portable", "avx2", "avx512", "avx512_vnni"}) {
        cases.push_back({.model = model,
                         .dtype = DType::kBF16,
                         .instruction_set = instruction_set,
                         .weights = format});
      }
    }
  }
  return cases;
}
#endif

std::string NameOf(const ::testing::TestParamInfo<Case>& info) {
  const Case& c = info.param;
  return absl::StrCat(c.model, "_", std::string(Name(c.engine_dtype())), "_",
                      c.device != "cpu"           ? "cuda"
                      : c.instruction_set.empty() ? "best"
                                                  : c.instruction_set);
}

class ReferenceTest : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    const Case& c = GetParam();
    const std::string dir = ModelsDir() + "/" + c.model;
    kernels::BackendOptions backend = {
        .device = c.device, .activation_dtype = c.dtype, .instruction_set = c.instruction_set};
    if (absl::IsInvalidArgument(kernels::CreateBackend(backend).status())) {
      GTEST_SKIP() << "this machine or build has no " << c.instruction_set;
    }
    expected_ = ReadExpected(dir);
    ASSERT_FALSE(expected_.empty()) << dir;
    const auto config = LoadModelConfig(dir);
    ASSERT_TRUE(config.ok()) << config.status();
    num_layers_ = config->num_layers;
    BareModelOptions options;
    options.config = *config;
    options.loader = {.model_dir = dir, .weight_format = c.weights};
    options.backend = backend;
    auto model = BareModel::Create(options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }

  /// The logits of a whole prompt, computed at once.
  std::vector<float> PromptLogits(const ExpectedPrompt& prompt) {
    const auto logits = model_->Logits(prompt.prompt, 0);
    EXPECT_TRUE(logits.ok()) << logits.status();
    if (!logits.ok() || logits->size() != prompt.logits.size()) return {};
    return *logits;
  }

  /// The greedy choice after the prompt and after each reference token but the last, one by one.
  std::vector<int32_t> GreedyChoices(const ExpectedPrompt& prompt, std::span<const float> logits) {
    const size_t vocab = model_->vocab_size();
    std::vector<int32_t> choices = {ArgMax(logits.last(vocab))};
    int32_t position = static_cast<int32_t>(prompt.prompt.size());
    for (size_t i = 0; i + 1 < prompt.greedy.size(); ++i, ++position) {
      const auto next = model_->Logits(std::span(&prompt.greedy[i], 1), position);
      EXPECT_TRUE(next.ok()) << next.status();
      if (!next.ok()) break;
      choices.push_back(ArgMax(*next));
    }
    return choices;
  }

  double tolerance() const { return GetParam().dtype == DType::kF32 ? 1e-4 : 2e-2; }

  std::vector<ExpectedPrompt> expected_;
  int64_t num_layers_ = 0;
  std::unique_ptr<BareModel> model_;
};

TEST_P(ReferenceTest, LogitsOfPromptsAreThoseOfTransformers) {
  for (const ExpectedPrompt& prompt : expected_) {
    const std::vector<float> logits = PromptLogits(prompt);
    ASSERT_FALSE(logits.empty());
    EXPECT_LE(Compare(logits, prompt.logits).relative_l2, tolerance())
        << "prompt of " << prompt.prompt.size() << " tokens";
  }
}

/// In float32 every token; in bf16 those whose lead over the second best exceeds four times the
/// largest error of a logit in the model's prompts.
TEST_P(ReferenceTest, GreedyTokensAreThoseOfTransformers) {
  std::vector<std::vector<int32_t>> choices;
  double largest_error = 0;
  for (const ExpectedPrompt& prompt : expected_) {
    const std::vector<float> logits = PromptLogits(prompt);
    ASSERT_FALSE(logits.empty());
    largest_error = std::max(largest_error, Compare(logits, prompt.logits).max_abs);
    choices.push_back(GreedyChoices(prompt, logits));
    ASSERT_EQ(choices.back().size(), prompt.greedy.size());
  }
  const double clear_lead = GetParam().dtype == DType::kF32 ? 0 : 4 * largest_error;
  size_t num_compared = 0;
  for (size_t p = 0; p < expected_.size(); ++p) {
    for (size_t i = 0; i < choices[p].size(); ++i) {
      if (expected_[p].gaps[i] <= clear_lead) continue;
      EXPECT_EQ(choices[p][i], expected_[p].greedy[i]) << "prompt " << p << ", token " << i;
      ++num_compared;
    }
  }
  EXPECT_GE(num_compared, GetParam().dtype == DType::kF32 ? 72u : 12u);
}

/// In float32 every position is as close as the whole: no single row hides behind the others.
TEST_P(ReferenceTest, EveryPositionIsCloseInFloat32) {
  if (GetParam().dtype != DType::kF32) GTEST_SKIP() << "holds for prompts, not for every position";
  const size_t vocab = model_->vocab_size();
  for (const ExpectedPrompt& prompt : expected_) {
    const std::vector<float> logits = PromptLogits(prompt);
    ASSERT_FALSE(logits.empty());
    for (size_t begin = 0; begin < logits.size(); begin += vocab) {
      const Error error = Compare(std::span(logits).subspan(begin, vocab),
                                  std::span(prompt.logits).subspan(begin, vocab));
      EXPECT_LE(error.relative_l2, tolerance())
          << "position " << begin / vocab << " of " << prompt.prompt.size();
    }
  }
}

/// Chunked prefill over several blocks gives the logits of a prefill at once, to the last bit.
TEST_P(ReferenceTest, ChunksOfAPromptGiveTheSameLogits) {
  const ExpectedPrompt& prompt = expected_.back();
  const std::vector<float> whole = PromptLogits(prompt);
  ASSERT_FALSE(whole.empty());
  for (size_t chunk : {1, 7}) {
    std::vector<float> chunked;
    for (size_t begin = 0; begin < prompt.prompt.size(); begin += chunk) {
      const size_t count = std::min(chunk, prompt.prompt.size() - begin);
      const auto part = model_->Logits(std::span(prompt.prompt).subspan(begin, count),
                                       static_cast<int32_t>(begin));
      ASSERT_TRUE(part.ok()) << part.status();
      chunked.insert(chunked.end(), part->begin(), part->end());
    }
    EXPECT_EQ(chunked, whole) << "chunks of " << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ReferenceTest, ::testing::ValuesIn(Cases()), NameOf);

/// Twice the relative error that rounding makes in a logit if the errors of all matrices on its way
/// are independent: those of two attention and two expert matrices in each layer, and of the head.
///
/// The largest of 32 normally distributed values is 2.4 standard deviations on average, so that
/// rounding to -M..M with that as M makes an error of 2.4 / (M sqrt(12)) of a standard deviation,
/// in the weights (M = 127 or 7; 127 in the head) as in the activations (127).
double RoundingTolerance(kernels::WeightFormat weights, int64_t num_layers) {
  const double int8 = 2.4 / (127 * std::sqrt(12.0));
  const double int4 = 2.4 / (7 * std::sqrt(12.0));
  const double of_weights = weights == kernels::WeightFormat::kInt4 ? int4 : int8;
  const double in_layers =
      4.0 * static_cast<double>(num_layers) * (of_weights * of_weights + int8 * int8);
  return 2 * std::sqrt(in_layers + 2 * int8 * int8);
}

class IntegerReferenceTest : public ReferenceTest {};

/// The median over all positions: where rounding changes the choice of an expert, the logits of a
/// position jump, in these random models far.
TEST_P(IntegerReferenceTest, LogitsStayAsNearToThoseOfTransformersAsRoundingAllows) {
  const size_t vocab = model_->vocab_size();
  std::vector<double> errors;
  for (const ExpectedPrompt& prompt : expected_) {
    const std::vector<float> logits = PromptLogits(prompt);
    ASSERT_FALSE(logits.empty());
    for (size_t begin = 0; begin < logits.size(); begin += vocab) {
      errors.push_back(Compare(std::span(logits).subspan(begin, vocab),
                               std::span(prompt.logits).subspan(begin, vocab))
                           .relative_l2);
    }
  }
  std::sort(errors.begin(), errors.end());
  EXPECT_LE(errors[errors.size() / 2], RoundingTolerance(GetParam().weights, num_layers_));
}

INSTANTIATE_TEST_SUITE_P(Models, IntegerReferenceTest, ::testing::ValuesIn(IntegerCases()), NameOf);

}  // namespace
}  // namespace moed
