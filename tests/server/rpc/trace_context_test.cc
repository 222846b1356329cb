#include "server/rpc/trace_context.h"

#include <gtest/gtest.h>

#include <string>

namespace moed {
namespace {

constexpr char kTraceId[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kParentId[] = "00f067aa0ba902b7";
const std::string kHeader = std::string("00-") + kTraceId + "-" + kParentId + "-01";

TEST(TraceContextTest, AWellFormedHeaderGivesItsIds) {
  EXPECT_EQ(ParseTraceparent(kHeader), (TraceContext{kTraceId, kParentId, true}));
}

TEST(TraceContextTest, OnlyTheLowestFlagMeansSampled) {
  EXPECT_FALSE(ParseTraceparent(kHeader.substr(0, 53) + "00")->sampled);
  EXPECT_FALSE(ParseTraceparent(kHeader.substr(0, 53) + "fe")->sampled);
  EXPECT_TRUE(ParseTraceparent(kHeader.substr(0, 53) + "0b")->sampled);
}

TEST(TraceContextTest, ALaterVersionMayGoOnAfterADash) {
  const std::string later = "cc" + kHeader.substr(2);
  EXPECT_EQ(ParseTraceparent(later), (TraceContext{kTraceId, kParentId, true}));
  EXPECT_EQ(ParseTraceparent(later + "-what-the-future-brings"),
            (TraceContext{kTraceId, kParentId, true}));
  EXPECT_EQ(ParseTraceparent(later + ".what-the-future-brings"), std::nullopt);
}

TEST(TraceContextTest, VersionZeroEndsAfterTheFlags) {
  EXPECT_EQ(ParseTraceparent(kHeader + "-more"), std::nullopt);
  EXPECT_EQ(ParseTraceparent(kHeader + " "), std::nullopt);
}

TEST(TraceContextTest, EveryPrefixIsIncomplete) {
  for (size_t size = 0; size < kHeader.size(); ++size) {
    EXPECT_EQ(ParseTraceparent(kHeader.substr(0, size)), std::nullopt) << size;
  }
}

TEST(TraceContextTest, AnyByteThatIsNeitherHexNorADashInItsPlaceIsRefused) {
  for (size_t at = 0; at < kHeader.size(); ++at) {
    for (const char c : {'A', 'g', ' ', '"', '\n', '\0', '\xff'}) {
      std::string header = kHeader;
      header[at] = c;
      EXPECT_EQ(ParseTraceparent(header), std::nullopt) << at;
    }
  }
}

TEST(TraceContextTest, TheForbiddenVersionAndIdsOfZerosAreRefused) {
  EXPECT_EQ(ParseTraceparent("ff" + kHeader.substr(2)), std::nullopt);
  EXPECT_EQ(ParseTraceparent("00-" + std::string(32, '0') + kHeader.substr(35)), std::nullopt);
  EXPECT_EQ(ParseTraceparent(kHeader.substr(0, 36) + std::string(16, '0') + "-01"), std::nullopt);
}

}  // namespace
}  // namespace moed
