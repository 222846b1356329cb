#include "client/load/load_command.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/load/describe_load.h"
#include "client/load/periodic_task.h"
#include "client/load/progress_line.h"
#include "client/load/rate_search.h"
#include "client/load/report/result_text.h"
#include "client/load/server/server_sampler.h"
#include "client/message_json.h"
#include "client/rpc_error.h"
#include "config/base/status_macros.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed::load {
namespace {

using nlohmann::ordered_json;

constexpr std::chrono::seconds kConnectTimeout(10);
constexpr double kStreamsPerChannel = 128;
constexpr int kWarmUpRun = 1'000'000;  // numbers of runs whose prompts no other run has
constexpr int64_t kWarmUpConcurrency = 8;
constexpr double kLiveSeconds = 0.5;
constexpr double kLogSeconds = 10;

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream out(path, std::ios::binary | std::ios::trunc);
  out << text << std::flush;
  if (out.good()) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("writing ", path, ": ", std::strerror(errno)));
}

// The mean over the samples, weighted by their rows: over a whole run a load that drifts looks
// even.
std::optional<double> MeasuredSkew(const ServerRecording& server, const ExpertSkew& skew) {
  double sum = 0;
  double num_rows = 0;
  for (size_t i = 1; i < server.samples.size(); ++i) {
    const ServerSample& sample = server.samples[i];
    const bool of_ranks = skew.groups == GroupKind::kRanks;
    sum += sample.num_new_rows * (of_ranks ? sample.balancedness : sample.expert_balancedness);
    num_rows += sample.num_new_rows;
  }
  return num_rows > 0 ? std::optional<double>(sum / num_rows) : std::nullopt;
}

}  // namespace

int LoadCommand::Run() {
  const absl::Status prepared = Prepare();
  if (!prepared.ok()) return Fail(prepared);
  const absl::StatusOr<Findings> findings = Measure();
  if (!findings.ok()) return Fail(findings.status());
  return Report(*findings);
}

void LoadCommand::Stop() {
  is_stopped_ = true;
  absl::MutexLock lock(&mutex_);
  if (run_ != nullptr) run_->Stop();
}

absl::Status LoadCommand::Prepare() {
  MOED_ASSIGN_OR_RETURN(spec_, MakeLoadSpec(flags_));
  MOED_RETURN_IF_ERROR(Connect());
  MOED_RETURN_IF_ERROR(AskModel());
  FillOptions();
  MOED_ASSIGN_OR_RETURN(prompts_,
                        PromptFactory::Create({.flags = flags_,
                                               .spec = *spec_,
                                               .connection = *control_,
                                               .admin = *admin_,
                                               .model = model_,
                                               .is_stopped = [this] { return is_stopped(); }}));
  MOED_RETURN_IF_ERROR(WarmUp());
  return flags_.verify > 0 ? LearnAnswers() : absl::OkStatus();
}

size_t LoadCommand::NumChannels() const {
  if (flags_.channels > 0) return static_cast<size_t>(flags_.channels);
  if (spec_->kind != LoadSpec::Kind::kClosedLoop || flags_.search || !flags_.sweep.empty())
    return 4;
  const double streams = spec_->levels.max_level() / flags_.threads;
  return static_cast<size_t>(std::clamp(std::ceil(streams / kStreamsPerChannel), 1.0, 8.0));
}

absl::Status LoadCommand::Connect() {
  ConnectionFlags flags = flags_.connection;
  flags.timeout_s = 0;  // that of a request
  flags.separate = true;
  MOED_ASSIGN_OR_RETURN(control_, Connection::Create(flags));
  ConnectionFlags of_admin = flags;
  if (!flags_.admin_server.empty()) of_admin.server = flags_.admin_server;
  if (absl::StartsWith(flags_.admin_server, "unix:")) {  // never TLS
    for (std::string* part :
         {&of_admin.tls_ca, &of_admin.tls_cert, &of_admin.tls_key, &of_admin.tls_server_name}) {
      part->clear();
    }
  }
  MOED_ASSIGN_OR_RETURN(admin_, Connection::Create(of_admin));
  for (int worker = 0; worker < flags_.threads; ++worker) {
    auto& connections = connections_.emplace_back();
    for (size_t i = 0; i < NumChannels(); ++i) {
      MOED_ASSIGN_OR_RETURN(connections.emplace_back(), Connection::Create(flags));
    }
  }
  return absl::OkStatus();
}

// The first call: it fails at once where there is no server. Connections of the load are opened
// before it starts, lest its first requests wait for them.
absl::Status LoadCommand::AskModel() {
  grpc::ClientContext context;
  control_->Authorize(context);
  context.set_deadline(std::chrono::system_clock::now() + kConnectTimeout);
  const auto stub = v1::InferenceService::NewStub(control_->channel());
  const grpc::Status status = stub->GetModel(&context, {}, &model_);
  if (!status.ok()) {
    return absl::UnavailableError(
        absl::StrCat(flags_.connection.server, ": GetModel: ", FormatRpcError(status)));
  }
  const auto deadline = std::chrono::system_clock::now() + kConnectTimeout;
  for (const auto& connections : connections_) {
    for (const auto& connection : connections) connection->channel()->WaitForConnected(deadline);
  }
  return absl::OkStatus();
}

void LoadCommand::FillOptions() {
  v1::GenerateRequest& request = options_.request;
  request.set_model(flags_.model);
  request.mutable_sampling()->set_temperature(flags_.temperature);
  request.mutable_stopping()->set_ignore_eos(!flags_.stop_at_eos);
  request.mutable_response()->set_skip_text(flags_.skip_text);
  request.set_priority(flags_.priority);
  request.set_bypass_prefix_cache(flags_.bypass_prefix_cache);
  options_.keep_token_ids = flags_.verify > 0 || flags_.turns != "1";
  request.mutable_response()->set_return_token_ids(options_.keep_token_ids);
  options_.deadline_s = flags_.connection.timeout_s;
  options_.cancel_after_tokens = flags_.cancel_after;
  options_.cancel_fraction = flags_.cancel_fraction;
  options_.slow_reader_s = flags_.slow_reader_ms / 1000;
  options_.slow_reader_fraction = flags_.slow_reader_fraction;
  options_.seed = flags_.seed;
}

absl::Status LoadCommand::WarmUp() {
  if (flags_.num_warmups == 0) return absl::OkStatus();
  RunPlan plan = MakeRunPlan(flags_, *spec_, std::nullopt, kWarmUpRun);
  plan.slots =
      RateSchedule::Constant(static_cast<double>(std::min(flags_.num_warmups, kWarmUpConcurrency)));
  plan.arrivals = std::make_unique<FixedArrivals>(SlotStarts(*plan.slots, 0));
  plan.max_requests = flags_.num_warmups;
  plan.duration_s = 0;
  ServerRecording ignored;
  const RunResult result = RunPlanned(plan, *prompts_->Make(kWarmUpRun), ignored);
  if (result.is_interrupted) return absl::CancelledError("interrupted while warming up");
  const std::vector<std::string>& errors = result.recording.errors();
  if (!errors.empty()) {
    return absl::UnavailableError(absl::StrCat("a warm-up request failed: ", errors.front()));
  }
  return absl::OkStatus();
}

// Each prompt by itself, before there is any load.
absl::Status LoadCommand::LearnAnswers() {
  RunPlan plan = MakeRunPlan(flags_, *spec_, std::nullopt, 0);
  plan.slots = RateSchedule::Constant(1);
  plan.arrivals = std::make_unique<FixedArrivals>(SlotStarts(*plan.slots, 0));
  plan.max_requests = flags_.verify;
  plan.duration_s = 0;
  ServerRecording ignored;
  const RunResult result = RunPlanned(plan, *prompts_->Make(0), ignored);
  expected_answers_.resize(static_cast<size_t>(flags_.verify));
  for (const RequestRecord& record : result.recording.records()) {
    if (record.outcome != RequestOutcome::kCompleted) {
      return absl::UnavailableError("--verify: a prompt got no answer before the load");
    }
    expected_answers_[static_cast<size_t>(record.prompt_id)] = record.token_hash;
  }
  if (std::ssize(result.recording.records()) == flags_.verify) return absl::OkStatus();
  return absl::CancelledError("interrupted before the load");
}

void LoadCommand::Verify(const RunRecording& recording, Findings& findings) const {
  for (const RequestRecord& record : recording.records()) {
    if (record.outcome != RequestOutcome::kCompleted || record.prompt_id < 0) continue;
    ++findings.num_compared;
    const auto prompt = static_cast<size_t>(record.prompt_id);
    if (record.token_hash != expected_answers_[prompt]) ++findings.num_different;
  }
}

absl::StatusOr<LoadCommand::Findings> LoadCommand::Measure() {
  return flags_.search || !flags_.sweep.empty() ? MeasureLevels() : MeasureOnce();
}

absl::StatusOr<LoadCommand::Findings> LoadCommand::MeasureOnce() {
  Findings findings;
  std::vector<RunSummary> summaries;
  for (int run = 0; run < flags_.repeat && !is_stopped(); ++run) {
    if (flags_.repeat > 1) ShowProgress(absl::StrFormat("run %d of %d\n", run + 1, flags_.repeat));
    MOED_ASSIGN_OR_RETURN(Outcome outcome, RunOnce(std::nullopt, run));
    if (flags_.verify > 0) Verify(outcome.result.recording, findings);
    summaries.push_back(std::move(outcome.summary));
    findings.server = std::move(outcome.server);
    findings.last.emplace(std::move(outcome.result));
  }
  if (summaries.empty()) return absl::CancelledError("interrupted before the first run");
  findings.summary = summaries.size() > 1 ? Combine(summaries) : std::move(summaries.front());
  return findings;
}

absl::StatusOr<LoadCommand::Findings> LoadCommand::MeasureLevels() {
  Findings findings;
  const bool counts = spec_->kind == LoadSpec::Kind::kClosedLoop;
  RateSearch search({.start = std::max(spec_->levels.LevelAt(0), counts ? 1 : 0.1),
                     .tolerance = flags_.search_tolerance,
                     .max_trials = flags_.search_trials,
                     .whole_numbers = counts});
  for (size_t run = 0; !is_stopped(); ++run) {
    std::optional<double> level = search.Next();
    if (!flags_.search) {
      level = run < flags_.sweep.size() ? std::optional(flags_.sweep[run]) : std::nullopt;
    }
    if (!level.has_value()) break;
    MOED_ASSIGN_OR_RETURN(Outcome outcome, RunOnce(level, static_cast<int>(run)));
    if (outcome.summary.is_interrupted && !findings.points.empty()) break;
    LoadPoint point = ToPoint(*level, outcome.summary);
    point.meets = point.attainment >= flags_.attainment;
    search.Report(point.meets ? RateSearch::Trial::kMet : RateSearch::Trial::kMissed);
    findings.points.push_back(point);
    ShowProgress(FormatPoints({point}, counts ? "in flight" : "rate"));
    const bool is_best = point.meets && *level >= findings.best.value_or(0);
    if (is_best) findings.best = *level;
    if (flags_.verify > 0) Verify(outcome.result.recording, findings);
    // The figures of the result are those of the best run, or of the first while there is none.
    if (!is_best && findings.last.has_value()) continue;
    findings.level = level;
    findings.summary = std::move(outcome.summary);
    findings.server = std::move(outcome.server);
    findings.last.emplace(std::move(outcome.result));
  }
  if (!findings.last.has_value()) return absl::CancelledError("interrupted before the first run");
  return findings;
}

absl::StatusOr<LoadCommand::Outcome> LoadCommand::RunOnce(std::optional<double> level, int run) {
  RunPlan plan = MakeRunPlan(flags_, *spec_, level, run);
  const std::unique_ptr<PromptSource> prompts = prompts_->Make(run);
  ServerRecording server;
  RunResult result = RunPlanned(plan, *prompts, server);
  RunSummary summary = Summarize(result, spec_->slo, spec_->limits);
  return Outcome{std::move(result), std::move(summary), std::move(server)};
}

RunResult LoadCommand::RunPlanned(RunPlan& plan, const PromptSource& prompts,
                                  ServerRecording& server) {
  plan.max_model_len = model_.max_model_len();
  LiveCounts live;
  LoadRun run({.plan = plan,
               .prompts = prompts,
               .options = options_,
               .connections = connections_,
               .live = live});
  {
    absl::MutexLock lock(&mutex_);
    run_ = &run;
    if (is_stopped()) run.Stop();
  }
  std::optional<ServerSampler> sampler;
  if (!flags_.no_server_stats) {
    sampler.emplace(ServerSampler::Params{.connection = *admin_,
                                          .metrics_address = flags_.metrics,
                                          .period = absl::Seconds(1),
                                          .clock = run.clock()});
  }
  ProgressLine progress(live);
  std::optional<PeriodicTask> shown;
  if (!flags_.quiet) {
    const double period = streams_.err_is_terminal ? kLiveSeconds : kLogSeconds;
    shown.emplace(absl::Seconds(period), [&] {
      const std::string line = progress.At(static_cast<double>(run.clock().Now()) * 1e-9);
      ShowProgress(streams_.err_is_terminal ? absl::StrCat("\r\x1b[K", line) : line + "\n");
    });
  }
  RunResult result = run.Run();
  shown.reset();
  if (!flags_.quiet && streams_.err_is_terminal) ShowProgress("\r\x1b[K");
  if (sampler.has_value()) server = sampler->Finish();
  absl::MutexLock lock(&mutex_);
  run_ = nullptr;
  return result;
}

RunLabels LoadCommand::MakeLabels(const Findings& findings) const {
  RunLabels labels;
  labels.label = flags_.label;
  labels.server = flags_.connection.server;
  labels.model = model_.name();
  labels.date = absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::LocalTimeZone());
  if (spec_->kind == LoadSpec::Kind::kOpenLoop) {
    labels.request_rate = findings.level.has_value() ? absl::StrCat(*findings.level) : flags_.rate;
  }
  if (spec_->kind == LoadSpec::Kind::kTrace) labels.request_rate = "trace";
  labels.burstiness = flags_.arrivals == "gamma" ? flags_.burstiness : 1;
  labels.max_concurrency = spec_->kind == LoadSpec::Kind::kClosedLoop
                               ? std::llround(findings.level.value_or(spec_->levels.max_level()))
                               : flags_.max_concurrency;
  labels.num_prompts = std::ssize(findings.last->recording.records());
  labels.max_model_len = model_.max_model_len();
  labels.load = DescribeLoad(flags_, *spec_);
  return labels;
}

ordered_json LoadCommand::MakeResult(const Findings& findings) const {
  ordered_json result = ToJson(findings.summary, MakeLabels(findings), spec_->slo);
  ordered_json& moed = result["moed"];
  if (!flags_.no_server_stats) moed["server"] = ToJson(findings.server);
  if (!findings.points.empty()) {
    const bool counts = spec_->kind == LoadSpec::Kind::kClosedLoop;
    moed["search"] = {
        {"unit", counts ? "requests in flight" : "requests/s"},
        {"attainment", flags_.attainment},
        {"best", findings.best.has_value() ? ordered_json(*findings.best) : ordered_json()},
        {"points", ToJson(findings.points)}};
  }
  if (const std::optional<ExpertSkew>& skew = prompts_->skew(); skew.has_value()) {
    const bool of_ranks = skew->groups == GroupKind::kRanks;
    const std::optional<double> measured = MeasuredSkew(findings.server, *skew);
    moed["expert_skew"] = {
        {"groups", of_ranks ? "ranks" : "experts"},
        {"target", skew->target},
        {"predicted", skew->predicted},
        {"measured", measured.has_value() ? ordered_json(*measured) : ordered_json()}};
  }
  if (flags_.verify > 0) {
    moed["verify"] = {{"compared", findings.num_compared}, {"different", findings.num_different}};
  }
  return result;
}

absl::Status LoadCommand::WriteFiles(const ordered_json& result) const {
  if (!flags_.json.empty()) MOED_RETURN_IF_ERROR(WriteFile(flags_.json, DumpJson(result) + "\n"));
  if (!flags_.csv.empty()) MOED_RETURN_IF_ERROR(WriteFile(flags_.csv, FormatTimelineCsv(result)));
  if (!flags_.html.empty()) MOED_RETURN_IF_ERROR(WriteFile(flags_.html, FormatHtml(result)));
  return absl::OkStatus();
}

int LoadCommand::Report(const Findings& findings) {
  ordered_json result = MakeResult(findings);
  if (flags_.save_detailed) AddDetails(findings.last->recording, result);
  streams_.out << FormatResult(result, streams_.charset);
  if (!findings.points.empty()) {
    const bool counts = spec_->kind == LoadSpec::Kind::kClosedLoop;
    streams_.out << "\n" << FormatPoints(findings.points, counts ? "in flight" : "rate");
    streams_.out << (findings.best.has_value()
                         ? absl::StrFormat("highest that meets: %.4g\n", *findings.best)
                         : std::string("none of them meets\n"));
  }
  streams_.out << std::flush;
  const absl::Status written = WriteFiles(result);
  if (!written.ok()) return Fail(written);
  if (is_stopped()) return kExitInterrupted;
  const bool all_failed =
      findings.summary.figures.num_completed == 0 && findings.summary.num_failed > 0;
  if (findings.num_different > 0 || all_failed) return kExitFailure;
  return findings.summary.invalid_reasons.empty() ? kExitOk : kExitNotValid;
}

int LoadCommand::Fail(const absl::Status& status) const {
  streams_.err << "moed-load: " << ForTerminal(std::string(status.message())) << std::endl;
  return is_stopped() ? kExitInterrupted : kExitFailure;
}

void LoadCommand::ShowProgress(const std::string& line) const {
  if (!flags_.quiet) streams_.err << line << std::flush;
}

}  // namespace moed::load
