#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moed {
namespace {

using ::testing::HasSubstr;

constexpr char kConfigJson[] = R"({
  "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu",
  "vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 6,
  "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": true,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
  "tie_word_embeddings": false, "decoder_sparse_step": 1, "mlp_only_layers": []
})";

struct Output {
  int exit_code = -1;
  std::string text;  // stdout and stderr
};

class MoedBenchTest : public ::testing::Test {
 protected:
  void SetUp() override {
    config_path_ = ::testing::TempDir() + "moed_bench_test_config.json";
    std::ofstream(config_path_) << kConfigJson;
  }

  static Output Run(const std::string& flags) {
    const std::string command = std::string(MOED_BINARY_DIR) + "/moed-bench " + flags + " 2>&1";
    Output output;
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return output;
    char buffer[4096];
    size_t n = 0;
    while ((n = fread(buffer, 1, sizeof(buffer), pipe)) > 0) output.text.append(buffer, n);
    const int status = pclose(pipe);
    output.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return output;
  }

  std::string DummyFlags() const {
    return ModelFlags() + "--prompt 20 --generate 3 --repetitions 2 --no-ceilings ";
  }

  std::string ModelFlags() const {
    return "--config-json " + config_path_ + " --load-format dummy ";
  }

  std::string config_path_;
};

TEST_F(MoedBenchTest, ReportsEveryBatchAsJson) {
  const Output output = Run(DummyFlags() + "--batch 1,4 --ranks 2 --dtype bf16 --json");
  ASSERT_EQ(output.exit_code, 0) << output.text;
  const nlohmann::json report = nlohmann::json::parse(output.text, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << output.text;
  EXPECT_EQ(report["num_ranks"], 2);
  EXPECT_EQ(report["engines"].size(), 2u);
  ASSERT_EQ(report["results"].size(), 4u);
  const nlohmann::json& prefill = report["results"][2];
  EXPECT_EQ(prefill["test"], "prefill");
  EXPECT_EQ(prefill["tokens"], 4 * 20);
  const nlohmann::json& four = report["results"][3];
  EXPECT_EQ(four["test"], "generation");
  EXPECT_EQ(four["batch"], 4);
  EXPECT_EQ(four["prompt"], 20);
  EXPECT_EQ(four["shared_prompt"], false);
  EXPECT_EQ(four["tokens"], 4 * 3);
  EXPECT_EQ(four["steps"], 3);
  ASSERT_EQ(four["samples"].size(), 2u);
  EXPECT_DOUBLE_EQ(four["tokens_per_second"].get<double>(),
                   (four["samples"][0].get<double>() + four["samples"][1].get<double>()) / 2);
  EXPECT_GT(four["stage_ms_per_step"]["experts"], 0.0);
  const double distinct = four["distinct_experts"];
  EXPECT_GE(distinct, 2.0);
  EXPECT_LE(distinct, 6.0);
}

TEST_F(MoedBenchTest, ComputesASharedPromptOnceOnEveryRank) {
  const Output output = Run(DummyFlags() + "--batch 4 --ranks 2 --shared-prompt --json");
  ASSERT_EQ(output.exit_code, 0) << output.text;
  const nlohmann::json report = nlohmann::json::parse(output.text, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << output.text;
  EXPECT_EQ(report["results"][0]["shared_prompt"], true);
  // One block of 16 on each rank, and the last 4 of 20 tokens for each sequence.
  EXPECT_EQ(report["results"][0]["tokens"], 2 * 16 + 4 * 4);
  EXPECT_EQ(report["results"][1]["tokens"], 4 * 3);
}

TEST_F(MoedBenchTest, ReportsBothRatesOfDecodingBesideAPrompt) {
  const Output output = Run(DummyFlags() + "--batch 4 --mixed 8 --json");
  ASSERT_EQ(output.exit_code, 0) << output.text;
  const nlohmann::json report = nlohmann::json::parse(output.text, nullptr, false);
  ASSERT_FALSE(report.is_discarded()) << output.text;
  const nlohmann::json& mixed = report["results"][2];
  EXPECT_EQ(mixed["test"], "mixed");
  EXPECT_EQ(mixed["steps"], 3);  // of 8, 8 and 4 prompt tokens
  EXPECT_EQ(mixed["tokens"], 20 + 3 * 4);
  EXPECT_NEAR(mixed["prompt_tokens_per_second"].get<double>() /
                  mixed["decoded_tokens_per_second"].get<double>(),
              20.0 / 12, 1e-6);
}

TEST_F(MoedBenchTest, PrintsTablesForPeople) {
  const Output output = Run(DummyFlags() + "--batch 2 --dtype f32");
  ASSERT_EQ(output.exit_code, 0) << output.text;
  EXPECT_THAT(output.text, HasSubstr("Qwen3MoeForCausalLM"));
  EXPECT_THAT(output.text, HasSubstr("tokens/s"));
  EXPECT_THAT(output.text, HasSubstr("generation"));
}

TEST_F(MoedBenchTest, ExitsWith2OnWrongUsage) {
  EXPECT_EQ(Run("--no-such-flag").exit_code, 2);
  EXPECT_EQ(Run("").exit_code, 2);
  EXPECT_EQ(Run("--config-json " + config_path_).exit_code, 2);
  const Output too_long = Run(ModelFlags() + "--prompt 20 --generate 200");
  EXPECT_EQ(too_long.exit_code, 2);
  EXPECT_THAT(too_long.text, HasSubstr("128 positions"));
}

TEST_F(MoedBenchTest, NamesTheSupportedDtypes) {
  const Output output = Run(DummyFlags() + "--dtype fp8");
  EXPECT_EQ(output.exit_code, 2);
  EXPECT_THAT(output.text, HasSubstr("bf16, f32, int8 or int4"));
}

TEST_F(MoedBenchTest, ExitsWith1WhenTheModelCannotBeRead) {
  EXPECT_EQ(Run("--model /nonexistent/model").exit_code, 1);
}

}  // namespace
}  // namespace moed
