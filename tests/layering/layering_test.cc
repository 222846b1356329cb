// Keeps the dependency graph of the README: reads every #include of the tree and checks it against
// the rules.

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moed {
namespace {

namespace fs = std::filesystem;

struct Include {
  std::string file;  // relative to the repository root
  int line = 0;
  std::string path;
};

bool IsSource(const fs::path& path) {
  static const std::vector<std::string> kExtensions = {".h", ".cc", ".cu", ".cuh"};
  return std::find(kExtensions.begin(), kExtensions.end(), path.extension()) != kExtensions.end();
}

std::vector<Include> IncludesOf(const fs::path& root, const fs::path& file) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*[<"]([^">]+)[">])");
  std::vector<Include> includes;
  std::ifstream in(file);
  std::string text;
  for (int line = 1; std::getline(in, text); ++line) {
    std::smatch match;
    if (std::regex_search(text, match, kInclude)) {
      includes.push_back({fs::relative(file, root).string(), line, match[1]});
    }
  }
  return includes;
}

std::vector<Include> AllIncludes(const fs::path& root) {
  std::vector<Include> includes;
  for (const char* folder : {"config", "kernels", "engine", "server", "client"}) {
    for (const auto& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      const std::vector<Include> of_file = IncludesOf(root, entry.path());
      includes.insert(includes.end(), of_file.begin(), of_file.end());
    }
  }
  return includes;
}

/// Files whose path matches `from` must not include what matches `forbidden`, `allowed` excepted.
struct Rule {
  std::string from;
  std::string forbidden;
  std::string allowed = "$^";
};

std::vector<std::string> Violations(const std::vector<Include>& includes, const Rule& rule) {
  const std::regex from(rule.from), forbidden(rule.forbidden), allowed(rule.allowed);
  std::vector<std::string> found;
  for (const Include& include : includes) {
    if (std::regex_search(include.file, from) && std::regex_search(include.path, forbidden) &&
        !std::regex_search(include.path, allowed)) {
      found.push_back(include.file + ":" + std::to_string(include.line) + " includes " +
                      include.path);
    }
  }
  return found;
}

class LayeringTest : public ::testing::Test {
 protected:
  const std::vector<Include> includes_ = AllIncludes(MOED_SOURCE_DIR);
};

constexpr char kOurs[] = "^(config|kernels|engine|server|client|proto|tests|moed)/";
constexpr char kProtoOrGrpc[] = R"((\.pb\.h$)|(^grpc)|(^google/protobuf/))";

TEST_F(LayeringTest, ReadsTheTree) { EXPECT_GT(includes_.size(), 500u); }

TEST_F(LayeringTest, EngineKernelsAndConfigIncludeNothingOfServerOrClient) {
  EXPECT_THAT(Violations(includes_, {"^(engine|kernels|config)/", "^(server|client)/"}),
              ::testing::IsEmpty());
}

TEST_F(LayeringTest, NothingIncludesTests) {
  EXPECT_THAT(Violations(includes_, {".", "^tests/"}), ::testing::IsEmpty());
}

TEST_F(LayeringTest, KernelsIncludeOnlyKernelsAndTheFloor) {
  EXPECT_THAT(Violations(includes_, {"^kernels/", kOurs, "^(kernels|config/base)/"}),
              ::testing::IsEmpty());
}

TEST_F(LayeringTest, ConfigIncludesOnlyConfig) {
  EXPECT_THAT(Violations(includes_, {"^config/", kOurs, "^config/"}), ::testing::IsEmpty());
  EXPECT_THAT(Violations(includes_, {"^config/base/", kOurs, "^config/base/"}),
              ::testing::IsEmpty());
}

TEST_F(LayeringTest, OnlyRpcFoldersAndTheClientIncludeProtobufAndGrpc) {
  EXPECT_THAT(
      Violations(includes_, {"^(config|kernels)/|^(engine|server)/(?!.*rpc/)", kProtoOrGrpc}),
      ::testing::IsEmpty());
}

TEST_F(LayeringTest, TheClientSpeaksProtocolOnly) {
  EXPECT_THAT(Violations(includes_, {"^client/", "^(engine|kernels|server)/"}),
              ::testing::IsEmpty());
}

TEST_F(LayeringTest, CudaAndNcclStayBehindTheBackendAndTheCommunicator) {
  EXPECT_THAT(Violations(includes_, {"^(?!kernels/cuda/|engine/comm/nccl_communicator)",
                                     "^(cuda|nccl|cublas|cub/)"}),
              ::testing::IsEmpty());
}

TEST_F(LayeringTest, TheServerReachesEnginesOnlyThroughApiRpcAndEstimates) {
  EXPECT_THAT(
      Violations(includes_, {"^server/", "^(kernels|engine)/",
                             "^(engine/(api|rpc)/|engine/comm/shm_communicator.h|"
                             "engine/runtime/(local_engine|memory_estimate|parse_dtype).h|kernels/"
                             "create_backend.h)"}),
      ::testing::IsEmpty());
}

TEST_F(LayeringTest, EngineFoldersPointDownOnly) {
  EXPECT_THAT(Violations(includes_, {"^engine/api/", "^engine/(?!api/)"}), ::testing::IsEmpty());
  EXPECT_THAT(Violations(includes_, {"^engine/comm/", "^engine/(?!comm/|api/)"}),
              ::testing::IsEmpty());
  EXPECT_THAT(Violations(includes_, {"^engine/weights/", "^engine/(?!weights/|api/)"}),
              ::testing::IsEmpty());
  EXPECT_THAT(Violations(includes_, {"^engine/moe/", "^engine/(model|runtime|rpc|kv|sampling)/"}),
              ::testing::IsEmpty());
  EXPECT_THAT(Violations(includes_, {"^engine/(model|kv|sampling)/", "^engine/(runtime|rpc)/"}),
              ::testing::IsEmpty());
  EXPECT_THAT(Violations(includes_, {"^engine/runtime/", "^engine/rpc/"}), ::testing::IsEmpty());
}

}  // namespace
}  // namespace moed
