#pragma once

#include <atomic>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/connection.h"
#include "client/load/load_flags.h"
#include "client/load/load_spec.h"
#include "client/load/prompt_factory.h"
#include "client/load/report/result_json.h"
#include "client/load/report/run_summary.h"
#include "client/load/server/server_sample.h"
#include "client/load/stream/load_run.h"
#include "client/text_table.h"
#include "moed/v1/inference.pb.h"

namespace moed::load {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitWorse = 3;
inline constexpr int kExitNotValid = 4;
inline constexpr int kExitInterrupted = 130;

/// Where moed-load writes; of main or of a test.
struct LoadStreams {
  std::ostream& out;
  std::ostream& err;
  Charset charset = Charset::kAscii;  // of out
  bool err_is_terminal = false;
};

/// One load test: one run, or the runs of --repeat, --search or --sweep, and their report.
///
/// Owned by main; Run belongs to its thread, Stop may come from any.
class LoadCommand {
 public:
  LoadCommand(const LoadFlags& flags, const LoadStreams& streams)
      : flags_(flags), streams_(streams) {}

  /// Blocks; returns the exit code, and has told every failure.
  int Run();

  /// Ends the run that is under way; what was measured is still reported.
  void Stop();

  bool is_stopped() const { return is_stopped_; }

 private:
  /// What one run brought.
  struct Outcome {
    RunResult result;
    RunSummary summary;
    ServerRecording server;
  };
  /// What all runs of the command brought.
  struct Findings {
    RunSummary summary;
    ServerRecording server;
    std::optional<RunResult> last;  // for details and verification
    std::vector<LoadPoint> points;
    std::optional<double> best;
    std::optional<double> level;  // whose run `summary` is
    int64_t num_compared = 0;
    int64_t num_different = 0;
  };

  absl::Status Prepare();
  absl::Status Connect();
  absl::Status AskModel();
  void FillOptions();
  size_t NumChannels() const;
  absl::Status WarmUp();
  absl::StatusOr<Findings> Measure();
  absl::StatusOr<Findings> MeasureOnce();
  absl::StatusOr<Findings> MeasureLevels();
  absl::StatusOr<Outcome> RunOnce(std::optional<double> level, int run);
  RunResult RunPlanned(RunPlan& plan, const PromptSource& prompts, ServerRecording& server);
  absl::Status LearnAnswers();
  void Verify(const RunRecording& recording, Findings& findings) const;
  nlohmann::ordered_json MakeResult(const Findings& findings) const;
  RunLabels MakeLabels(const Findings& findings) const;
  absl::Status WriteFiles(const nlohmann::ordered_json& result) const;
  int Report(const Findings& findings);
  int Fail(const absl::Status& status) const;
  void ShowProgress(const std::string& line) const;

  const LoadFlags flags_;
  const LoadStreams streams_;
  std::optional<LoadSpec> spec_;
  std::unique_ptr<Connection> control_;                                // for all but the load
  std::unique_ptr<Connection> admin_;                                  // for the admin calls
  std::vector<std::vector<std::unique_ptr<Connection>>> connections_;  // by worker
  v1::GetModelResponse model_;
  StreamOptions options_;
  std::unique_ptr<PromptFactory> prompts_;
  std::vector<uint64_t> expected_answers_;  // of --verify, by prompt
  std::atomic<bool> is_stopped_ = false;
  absl::Mutex mutex_;
  LoadRun* run_ ABSL_GUARDED_BY(mutex_) = nullptr;
};

/// moed-load compare: prints what changed, returns the exit code.
int RunCompare(const CompareFlags& flags, const LoadStreams& streams);

}  // namespace moed::load
