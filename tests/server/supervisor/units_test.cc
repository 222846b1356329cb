#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <fstream>
#include <string>
#include <vector>

#include "server/supervisor/cpu_assignment.h"
#include "server/supervisor/engine_checks.h"
#include "server/supervisor/engine_log.h"
#include "server/supervisor/line_splitter.h"
#include "server/supervisor/load_progress_log.h"
#include "server/supervisor/process_end.h"
#include "server/supervisor/socket_directory.h"

namespace moed {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> Split(const std::vector<std::string>& pieces) {
  std::vector<std::string> lines;
  LineSplitter splitter([&](absl::string_view line) { lines.emplace_back(line); });
  for (const std::string& piece : pieces) splitter.Append(piece);
  splitter.Flush();
  return lines;
}

TEST(LineSplitterTest, LinesAreTheSameWhateverThePieces) {
  EXPECT_THAT(Split({"one\ntwo\nthree"}), ElementsAre("one", "two", "three"));
  EXPECT_THAT(Split({"on", "e", "\nt", "wo\n", "", "three"}), ElementsAre("one", "two", "three"));
}

TEST(LineSplitterTest, EmptyLinesAreDropped) {
  EXPECT_THAT(Split({"\n\na\n\n"}), ElementsAre("a"));
}

TEST(LineSplitterTest, ALongLineIsCutAndTheNextOneIsWhole) {
  const std::vector<std::string> lines = Split({std::string(1 << 20, 'x'), "y\nnext\n"});
  EXPECT_THAT(lines, ElementsAre(std::string(LineSplitter::kMaxLineBytes, 'x'), "next"));
}

TEST(LineSplitterTest, ControlCharactersCannotReachATerminal) {
  EXPECT_THAT(Split({"a\x1b[31mb\r\n"}), ElementsAre("a?[31mb"));
}

TEST(EngineLogTest, ALineIsLoggedAtTheLevelItStartsWith) {
  using Level = EngineLogLine::Level;
  EXPECT_EQ(ParseEngineLogLine("level=error event=x").level, Level::kError);
  EXPECT_EQ(ParseEngineLogLine("level=error event=x").text, "event=x");
  EXPECT_EQ(ParseEngineLogLine("level=info a").level, Level::kInfo);
  EXPECT_EQ(ParseEngineLogLine("level=trace a").level, Level::kDebug);
}

TEST(EngineLogTest, ALineOfAnotherFormIsAWarningAsItIs) {
  const EngineLogLine line = ParseEngineLogLine("terminate called");
  EXPECT_EQ(line.level, EngineLogLine::Level::kWarning);
  EXPECT_EQ(line.text, "terminate called");
}

TEST(CpuAssignmentTest, RanksGetDisjointRunsOfTheAllowedCpus) {
  EXPECT_THAT(AssignCpus({0, 2, 4, 6, 9}, 2, 2), ElementsAre(ElementsAre(0, 2), ElementsAre(4, 6)));
}

TEST(CpuAssignmentTest, NobodyIsPinnedWhenThereAreTooFew) {
  EXPECT_THAT(AssignCpus({0, 1, 2}, 2, 2), ElementsAre(IsEmpty(), IsEmpty()));
  EXPECT_THAT(AssignCpus({0, 1, 2}, 2, 0), ElementsAre(IsEmpty(), IsEmpty()));
  EXPECT_THAT(AssignCpus({}, 1, 1), ElementsAre(IsEmpty()));
}

TEST(CpuAssignmentTest, ThisProcessMayRunSomewhere) {
  const absl::StatusOr<std::vector<int32_t>> cpus = AllowedCpus();
  ASSERT_TRUE(cpus.ok()) << cpus.status();
  EXPECT_FALSE(cpus->empty());
}

TEST(LoadProgressLogTest, ATenthASecondAndTheEndAreWorthALine) {
  LoadProgressLog log;
  const absl::Time start = absl::UnixEpoch();
  EXPECT_TRUE(log.ShouldLog(0, 1000, start));
  EXPECT_FALSE(log.ShouldLog(99, 1000, start + absl::Milliseconds(999)));
  EXPECT_TRUE(log.ShouldLog(99, 1000, start + absl::Milliseconds(1000)));
  EXPECT_TRUE(log.ShouldLog(100, 1000, start + absl::Milliseconds(1001)));
  EXPECT_FALSE(log.ShouldLog(199, 1000, start + absl::Milliseconds(1002)));
  EXPECT_TRUE(log.ShouldLog(1000, 1000, start + absl::Milliseconds(1003)));
}

TEST(LoadProgressLogTest, TheRatioStaysInItsRangeWhateverIsReported) {
  EXPECT_EQ(LoadedRatio(1, 4), 0.25);
  EXPECT_EQ(LoadedRatio(0, 0), 1);
  EXPECT_EQ(LoadedRatio(9, 4), 1);
  EXPECT_EQ(LoadedRatio(-9, 4), 0);
}

TEST(ProcessEndTest, SaysHowAProcessEnded) {
  EXPECT_EQ(Describe({.exit_code = 3}), "exited with code 3");
  EXPECT_EQ(Describe({.signal = SIGKILL}), "was killed by signal 9 (Killed)");
}

TEST(SocketDirectoryTest, OnlyTheUserMayEnterAndNothingIsLeft) {
  std::string path;
  {
    const auto directory = SocketDirectory::Create(2);
    ASSERT_TRUE(directory.ok()) << directory.status();
    path = (*directory)->path();
    struct stat info;
    ASSERT_EQ(::stat(path.c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 0777, 0700u);
    EXPECT_LT((*directory)->SocketPath(1).size(), sizeof(sockaddr_un::sun_path));
    std::ofstream((*directory)->SocketPath(1)) << "left by an engine";
  }
  struct stat info;
  EXPECT_NE(::stat(path.c_str(), &info), 0);
}

EngineConfig Config() {
  return {.rank = 1, .placement = ExpertPlacement::Linear(1, 2, 2), .num_blocks = 7};
}

EngineInfo HonestInfo() {
  const EngineConfig config = Config();
  return {.rank = 1,
          .num_ranks = 2,
          .device = config.device,
          .block_size = config.block_size,
          .num_blocks = 7,
          .max_tokens_per_step = config.max_tokens_per_step,
          .max_sequences_per_step = config.max_sequences_per_step};
}

TEST(EngineChecksTest, AnInfoThatIsNotAsConfiguredIsNamed) {
  EXPECT_TRUE(CheckInfo(Config(), HonestInfo()).ok());
  EngineInfo info = HonestInfo();
  info.num_blocks = 8;
  EXPECT_THAT(std::string(CheckInfo(Config(), info).message()),
              HasSubstr("num_blocks 8, but was configured with 7"));
  info = HonestInfo();
  info.rank = 0;
  EXPECT_FALSE(CheckInfo(Config(), info).ok());
  info = HonestInfo();
  info.device = "cuda:0";
  EXPECT_FALSE(CheckInfo(Config(), info).ok());
}

TEST(EngineChecksTest, AResultMustAnswerItsPlan) {
  const StepPlan plan{.step_id = 4,
                      .slices = {{.sequence_id = 1, .sample = SampleRequest{}},
                                 {.sequence_id = 2},
                                 {.sequence_id = 3, .sample = SampleRequest{}}}};
  const StepResult good{.step_id = 4, .sampled = {{.sequence_id = 1}, {.sequence_id = 3}}};
  EXPECT_TRUE(CheckResult(plan, good).ok());
  StepResult bad = good;
  bad.step_id = 3;
  EXPECT_FALSE(CheckResult(plan, bad).ok());
  bad = good;
  std::swap(bad.sampled[0], bad.sampled[1]);
  EXPECT_FALSE(CheckResult(plan, bad).ok());
  bad = good;
  bad.sampled.pop_back();
  EXPECT_FALSE(CheckResult(plan, bad).ok());
  bad = good;
  bad.sampled.push_back({.sequence_id = 2});
  EXPECT_FALSE(CheckResult(plan, bad).ok());
}

}  // namespace
}  // namespace moed
