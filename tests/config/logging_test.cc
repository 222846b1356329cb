#include "config/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace moed {
namespace {

using testing::HasSubstr;
using testing::internal::CaptureStderr;
using testing::internal::GetCapturedStderr;

TEST(LoggingTest, LinesGoToStderrWithLevelAndName) {
  ASSERT_TRUE(InitLogging("info", "engine.3").ok());
  CaptureStderr();
  SPDLOG_DEBUG("event=hidden");
  SPDLOG_WARN("event=loaded bytes={}", 12);
  const std::string log = GetCapturedStderr();
  EXPECT_THAT(log, HasSubstr("level=warning name=engine.3 "));
  EXPECT_THAT(log, HasSubstr("source=logging_test.cc:"));
  EXPECT_THAT(log, HasSubstr(" event=loaded bytes=12\n"));
  EXPECT_THAT(log, testing::Not(HasSubstr("hidden")));
}

TEST(LoggingTest, OffSilencesEverything) {
  ASSERT_TRUE(InitLogging("off", "x").ok());
  CaptureStderr();
  SPDLOG_CRITICAL("event=loud");
  EXPECT_EQ(GetCapturedStderr(), "");
}

TEST(LoggingTest, UnknownLevelsAreRefused) {
  const absl::Status status = InitLogging("loud", "x");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("log level 'loud': expected trace"));
}

}  // namespace
}  // namespace moed
