#include "config/daemon_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace moed {
namespace {

using ::testing::HasSubstr;

const ConfigField& Field(absl::string_view key) {
  for (const ConfigField& field : DaemonConfigFields()) {
    if (field.key == key) return field;
  }
  ADD_FAILURE() << "no field " << key;
  return DaemonConfigFields()[0];
}

absl::Status Apply(absl::string_view json, DaemonConfig& config) {
  return ApplyConfigJson(json, "moed.json", config);
}

void ExpectRefused(const absl::Status& status, const std::string& part) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST(DaemonConfigTest, TheDefaultsAreValid) {
  EXPECT_TRUE(ValidateDaemonConfig(DaemonConfig{}).ok());
}

TEST(DaemonConfigTest, AFileSetsWhatItNamesAndLeavesTheRest) {
  DaemonConfig config;
  ASSERT_TRUE(Apply(R"({"ranks": 4, "listen": "unix:/run/moed.sock", "step_timeout_s": 2.5,
                        "prefix_caching": false, "max_text_bytes": 1000})",
                    config)
                  .ok());
  EXPECT_EQ(config.ranks, 4);
  EXPECT_EQ(config.listen, "unix:/run/moed.sock");
  EXPECT_EQ(config.step_timeout_s, 2.5);
  EXPECT_FALSE(config.prefix_caching);
  EXPECT_EQ(config.max_text_bytes, 1000);
  EXPECT_EQ(config.dtype, "bf16");
}

TEST(DaemonConfigTest, FastNumericsAreForGpus) {
  DaemonConfig config;
  EXPECT_EQ(config.numerics, "invariant");
  ASSERT_TRUE(SetConfigField(Field("numerics"), "fast", config).ok());
  ExpectRefused(ValidateDaemonConfig(config), "numerics: fast is what cuBLAS computes on GPUs");
  config.device = "cuda";
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
  ExpectRefused(SetConfigField(Field("numerics"), "loose", config), "--numerics");
}

TEST(DaemonConfigTest, AFlagOverridesTheFile) {
  DaemonConfig config;
  ASSERT_TRUE(Apply(R"({"ranks": 4})", config).ok());
  ASSERT_TRUE(SetConfigField(Field("ranks"), "2", config).ok());
  EXPECT_EQ(config.ranks, 2);
}

TEST(DaemonConfigTest, AnUnknownKeyIsRefusedByName) {
  DaemonConfig config;
  ExpectRefused(Apply(R"({"rank": 4})", config), "rank");
}

TEST(DaemonConfigTest, AValueOfTheWrongTypeIsRefusedWithItsKey) {
  DaemonConfig config;
  ExpectRefused(Apply(R"({"ranks": "four"})", config), "ranks");
  ExpectRefused(Apply(R"({"prefix_caching": 1})", config), "prefix_caching");
  ExpectRefused(Apply(R"({"listen": 50051})", config), "listen");
}

TEST(DaemonConfigTest, EveryNumberIsHeldToItsRangeInFlagsAndFilesAlike) {
  for (const ConfigField& field : DaemonConfigFields()) {
    if (std::holds_alternative<std::string DaemonConfig::*>(field.member) ||
        std::holds_alternative<bool DaemonConfig::*>(field.member)) {
      continue;
    }
    DaemonConfig config;
    const std::string key(field.key);
    const std::string below = std::to_string(static_cast<int64_t>(field.min) - 1);
    const std::string above = std::to_string(static_cast<int64_t>(field.max) + 1);
    EXPECT_FALSE(SetConfigField(field, below, config).ok()) << key;
    EXPECT_FALSE(SetConfigField(field, above, config).ok()) << key;
    EXPECT_FALSE(SetConfigField(field, "many", config).ok()) << key;
    EXPECT_FALSE(SetConfigField(field, "nan", config).ok()) << key;
    EXPECT_FALSE(Apply("{\"" + key + "\": " + below + "}", config).ok()) << key;
    EXPECT_FALSE(Apply("{\"" + key + "\": " + above + "}", config).ok()) << key;
    const std::string max = std::to_string(static_cast<int64_t>(field.max));
    EXPECT_TRUE(SetConfigField(field, max, config).ok()) << key;
    EXPECT_TRUE(Apply("{\"" + key + "\": " + max + "}", config).ok()) << key;
  }
}

TEST(DaemonConfigTest, AStringOutsideItsChoicesIsRefusedAndTheChoicesAreNamed) {
  DaemonConfig config;
  ExpectRefused(SetConfigField(Field("dtype"), "fp8", config), "bf16|f32|int8|int4");
  ExpectRefused(Apply(R"({"log_level": "loud"})", config), "trace|debug");
  EXPECT_EQ(config.dtype, "bf16");
}

TEST(DaemonConfigTest, AFlagErrorNamesTheFlagAsItIsTyped) {
  DaemonConfig config;
  ExpectRefused(SetConfigField(Field("max_model_len"), "-1", config), "--max-model-len");
  ExpectRefused(SetConfigField(Field("prefix_caching"), "yes", config), "--prefix-caching");
}

TEST(DaemonConfigTest, ListenAddressesAreHostAndPortOrASocketPath) {
  for (const char* good : {"127.0.0.1:0", "localhost:50051", "[::1]:9", "0.0.0.0:65535",
                           "unix:/run/moed.sock", "unix:relative.sock"}) {
    EXPECT_TRUE(ValidateListenAddress(good).ok()) << good;
  }
  for (const char* bad : {"", "localhost", ":50051", "localhost:", "localhost:port", "::1:80",
                          "host:65536", "host:-1", "unix:"}) {
    EXPECT_FALSE(ValidateListenAddress(bad).ok()) << bad;
  }
  EXPECT_FALSE(ValidateListenAddress("unix:/" + std::string(107, 'x')).ok());
}

TEST(DaemonConfigTest, OnlyThisMachineReachesLoopbackAndSockets) {
  for (const char* local :
       {"127.0.0.1:0", "127.9.9.9:1", "localhost:50051", "[::1]:9", "unix:/run/moed.sock"}) {
    EXPECT_TRUE(IsLocalAddress(local)) << local;
  }
  for (const char* open :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.com:1", "127.example.com:1",
        "localhost.example.com:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_FALSE(IsLocalAddress(open)) << open;
  }
}

TEST(DaemonConfigTest, BeyondThisMachineTlsAndTokensAreNeededOrItIsSaidAloud) {
  DaemonConfig config;
  config.listen = "0.0.0.0:50051";
  ExpectRefused(ValidateDaemonConfig(config), "--insecure");
  config.token_file = "/etc/moed/tokens";
  ExpectRefused(ValidateDaemonConfig(config), "needs TLS");
  config.tls_cert = "/etc/moed/tls.crt";
  config.tls_key = "/etc/moed/tls.key";
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
  config.token_file = "";
  ExpectRefused(ValidateDaemonConfig(config), "token_file");
  config.insecure = true;
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
  config = DaemonConfig();
  config.admin_listen = "[::]:50052";
  ExpectRefused(ValidateDaemonConfig(config), "admin_listen");
  config.admin_listen = "unix:/run/moed/admin.sock";
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
}

TEST(DaemonConfigTest, TlsSettingsGoTogether) {
  DaemonConfig config;
  config.tls_cert = "/etc/moed/tls.crt";
  ExpectRefused(ValidateDaemonConfig(config), "tls_key");
  config.tls_key = "/etc/moed/tls.key";
  config.tls_client_ca = "/etc/moed/ca.crt";
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
  config.listen = "unix:/run/moed/moed.sock";
  ExpectRefused(ValidateDaemonConfig(config), "unix sockets only");
  config.admin_listen = "127.0.0.1:50052";
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
  config = DaemonConfig();
  config.tls_client_ca = "/etc/moed/ca.crt";
  ExpectRefused(ValidateDaemonConfig(config), "tls_client_ca");
}

TEST(DaemonConfigTest, ASocketsModeIsOctalReadAndWriteBits) {
  EXPECT_EQ(*ParseSocketMode("0660"), 0660);
  EXPECT_EQ(*ParseSocketMode("600"), 0600);
  for (const char* bad : {"", "0", "0777", "0999", "rw", "-1", "77777777777777777777"}) {
    EXPECT_FALSE(ParseSocketMode(bad).ok()) << bad;
  }
  DaemonConfig config;
  config.socket_mode = "0777";
  ExpectRefused(ValidateDaemonConfig(config), "socket_mode");
}

TEST(DaemonConfigTest, MetricsCannotListenOnASocketPathButCanBeOff) {
  DaemonConfig config;
  config.metrics_listen = "unix:/run/metrics.sock";
  ExpectRefused(ValidateDaemonConfig(config), "metrics_listen");
  config.metrics_listen = "";
  EXPECT_TRUE(ValidateDaemonConfig(config).ok());
}

TEST(DaemonConfigTest, MoreSequencesThanTokensInAStepAreRefused) {
  DaemonConfig config;
  config.max_tokens_per_step = 8;
  config.max_sequences_per_step = 9;
  ExpectRefused(ValidateDaemonConfig(config), "max_sequences_per_step");
}

TEST(DaemonConfigTest, EveryExampleFileIsValid) {
  int num_examples = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(MOED_SOURCE_DIR "/config/examples")) {
    if (entry.path().extension() != ".json") continue;
    DaemonConfig config;
    absl::Status status = ApplyConfigFile(entry.path(), config);
    EXPECT_TRUE(status.ok()) << status;
    status = ValidateDaemonConfig(config);
    EXPECT_TRUE(status.ok()) << entry.path() << ": " << status;
    ++num_examples;
  }
  EXPECT_GE(num_examples, 3);
}

TEST(DaemonConfigTest, AMissingFileIsNamed) {
  DaemonConfig config;
  const absl::Status status = ApplyConfigFile("/nonexistent/moed.json", config);
  EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(status.message()), HasSubstr("/nonexistent/moed.json"));
}

}  // namespace
}  // namespace moed
