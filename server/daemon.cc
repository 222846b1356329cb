#include "server/daemon.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "config/base/status_macros.h"
#include "config/logging.h"
#include "server/metrics/experts_json.h"
#include "server/rpc/rpc_methods.h"
#include "server/signal_thread.h"
#include "server/supervisor/cpu_assignment.h"

namespace moed {
namespace {

constexpr absl::Duration kDrainPollInterval = absl::Milliseconds(10);
constexpr absl::Duration kShutdownGrace = absl::Seconds(1);
// The engines' own deadline comes first: its error names the rank that is missing.
constexpr absl::Duration kStepTimeoutMargin = absl::Seconds(5);
// What ending takes beside the requests: the servers' threads, the engines.
constexpr absl::Duration kStopMargin = absl::Seconds(15);

ProcessEngineGroupOptions GroupOptions(const DaemonConfig& config, const LaunchPlan& plan) {
  return {.engine_binary = config.engine_binary,
          .engine_args = {"--log-level=" + config.log_level},
          .engine = plan.engine,
          .load_timeout = absl::Seconds(config.load_timeout_s),
          .step_timeout = absl::Seconds(config.step_timeout_s) + kStepTimeoutMargin};
}

// Indices in the model of its MoE layers.
std::vector<int32_t> MoeLayers(const ModelConfig& config) {
  std::vector<int32_t> layers;
  for (size_t i = 0; i < config.layer_is_moe.size(); ++i) {
    if (config.layer_is_moe[i]) layers.push_back(static_cast<int32_t>(i));
  }
  return layers;
}

PrometheusMetrics::Params MetricsParams(const DaemonConfig& config, const LaunchPlan& plan) {
  const char* transport = config.device == "cuda" ? "nccl" : "shm";
  return {.model_name = plan.model.name,
          .version = plan.model.server_version,
          .transport = plan.placement.num_ranks > 1 ? transport : "none",
          .placement = plan.placement,
          .moe_layers = MoeLayers(plan.model.config),
          .block_size = plan.memory.block_size,
          .num_blocks = plan.memory.num_blocks,
          .vllm_names = config.metrics_vllm_aliases ? PrometheusMetrics::VllmNames::kOn
                                                    : PrometheusMetrics::VllmNames::kOff};
}

RpcLimits FrontLimits(const DaemonConfig& config) {
  RpcLimits limits;
  const int32_t num_cores = NumUsableCpus().value_or(1);
  limits.num_tokenizer_threads =
      config.tokenizer_threads > 0 ? config.tokenizer_threads : std::clamp(num_cores / 4, 1, 4);
  limits.max_tenant_calls = config.max_tenant_requests;
  limits.max_waiting_texts = config.max_waiting_requests;
  return limits;
}

StepLoopOptions LoopOptions(const DaemonConfig& config, const LaunchPlan& plan) {
  StepLoopOptions options;
  options.max_model_len = plan.memory.max_model_len;
  options.max_tokens_per_step = config.max_tokens_per_step;
  options.max_sequences_per_step = config.max_sequences_per_step;
  options.max_waiting_requests = config.max_waiting_requests;
  options.max_waiting_tokens = config.max_waiting_tokens;
  options.prefix_caching = config.prefix_caching;
  options.hole_token_ids = plan.model.hole_token_ids;
  return options;
}

// The service manager's own time-out is what follows; the service itself is well.
void LogNotifyError(const absl::Status& status) {
  if (!status.ok()) {
    SPDLOG_ERROR("event=notify_failed error=\"{}\"", absl::CEscape(status.message()));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Daemon>> Daemon::Create(const DaemonConfig& config) {
  MOED_ASSIGN_OR_RETURN(LaunchPlan plan, MakeLaunchPlan(config));
  std::unique_ptr<Daemon> daemon(new Daemon(config, std::move(plan)));
  MOED_ASSIGN_OR_RETURN(daemon->notifier_, ServiceNotifier::FromEnvironment());
  MOED_RETURN_IF_ERROR(daemon->LoadSecrets());
  MOED_RETURN_IF_ERROR(daemon->Listen());
  MOED_RETURN_IF_ERROR(daemon->ListenForMetrics());
  return daemon;
}

Daemon::Daemon(const DaemonConfig& config, LaunchPlan plan)
    : config_(config),
      plan_(std::move(plan)),
      started_(absl::Now()),
      metrics_(MetricsParams(config_, plan_)),
      engines_(GroupOptions(config_, plan_)),
      loop_(StepLoop::Create({.model = plan_.model.config,
                              .tokenizer = *plan_.tokenizer,
                              .placement = plan_.placement,
                              .engines = engines_,
                              .metrics = &metrics_},
                             LoopOptions(config_, plan_))) {
  loop_->SetStateCallback([this](ServingState state) { OnStateChange(state); });
}

// The servers' threads and the loop's use everything here: they go first.
Daemon::~Daemon() {
  loop_->Stop(absl::UnavailableError("the server is shutting down"));
  if (rpc_server_ != nullptr) rpc_server_->Shutdown(kShutdownGrace);
}

absl::Status Daemon::LoadSecrets() {
  MOED_ASSIGN_OR_RETURN(
      secrets_, ReloadedSecrets::Load({.token_file = config_.token_file,
                                       .methods = RpcMethodNames(),
                                       .certificates = {.certificate = config_.tls_cert,
                                                        .key = config_.tls_key,
                                                        .client_ca = config_.tls_client_ca},
                                       .interval = absl::Seconds(config_.reload_interval_s)}));
  return absl::OkStatus();
}

absl::Status Daemon::Listen() {
  MOED_ASSIGN_OR_RETURN(const int32_t socket_mode, ParseSocketMode(config_.socket_mode));
  std::random_device random;
  MOED_ASSIGN_OR_RETURN(rpc_server_,
                        RpcServer::Start({.listen = config_.listen,
                                          .admin_listen = config_.admin_listen,
                                          .socket_mode = socket_mode,
                                          .certificates = secrets_->certificates(),
                                          .model = plan_.model,
                                          .tokenizer = *plan_.tokenizer,
                                          .placement = plan_.placement,
                                          .loop = *loop_,
                                          .authenticator = secrets_->authenticator(),
                                          .observer = &metrics_,
                                          .limits = FrontLimits(config_),
                                          .reflection = config_.reflection,
                                          .ranks = [this] { return Ranks(); },
                                          .max_pending_bytes = config_.max_pending_bytes,
                                          .drain_timeout = absl::Seconds(config_.drain_timeout_s),
                                          .started = started_,
                                          .random_prefix = random()}));
  LogListening();
  return absl::OkStatus();
}

void Daemon::LogListening() const {
  const bool is_tls = secrets_->certificates() != nullptr && !config_.listen.starts_with("unix:");
  const char* tls = config_.tls_client_ca.empty() ? "server" : "mutual";
  const char* authentication = secrets_->authenticator() != nullptr ? "token" : "none";
  SPDLOG_INFO("event=listening address={} admin_address={} authentication={} tls={}",
              rpc_server_->address(),
              config_.admin_listen.empty() ? "same" : rpc_server_->admin_address(), authentication,
              is_tls ? tls : "none");
  if (config_.insecure && !IsLocalAddress(rpc_server_->address())) {
    SPDLOG_WARN("event=insecure address={} authentication={} tls={}", rpc_server_->address(),
                authentication, is_tls ? tls : "none");
  }
}

absl::Status Daemon::ListenForMetrics() {
  if (config_.metrics_listen.empty()) return absl::OkStatus();
  MetricsHttpServer::Params params;
  params.listen = config_.metrics_listen;
  params.metrics_text = [this] {
    metrics_.Refresh(loop_->stats(), Ranks());
    metrics_.RefreshStreams(rpc_server_->stream_stats());
    return metrics_.Text();
  };
  params.experts_json = [this] {
    return ExpertsJson(loop_->stats(), plan_.placement, MoeLayers(plan_.model.config));
  };
  params.state = [this] { return loop_->stats().state; };
  MOED_ASSIGN_OR_RETURN(http_server_, MetricsHttpServer::Start(std::move(params)));
  SPDLOG_INFO("event=metrics_listening address={}", http_server_->address());
  return absl::OkStatus();
}

absl::Status Daemon::Run() {
  SignalThread signals([this](int signal) { OnSignal(signal); });
  SPDLOG_INFO("event=loading model={} dir={} ranks={} threads={} num_blocks={} max_model_len={}",
              plan_.model.name, plan_.model_dir, plan_.placement.num_ranks,
              plan_.engine.num_threads, plan_.memory.num_blocks, plan_.memory.max_model_len);
  loop_->Start();
  AwaitEnd();
  if (const absl::Status status = loop_->fatal_status(); !status.ok()) return status;
  Drain();
  loop_->Stop(absl::UnavailableError("the server is shutting down"));
  rpc_server_->Shutdown(kShutdownGrace);
  // The engines may have failed for good while draining; the loop says so once it has stopped.
  MOED_RETURN_IF_ERROR(loop_->fatal_status());
  SPDLOG_INFO("event=stopped");
  return absl::OkStatus();
}

void Daemon::AwaitEnd() {
  absl::MutexLock lock(&mutex_);
  auto over = [this]()
                  ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return num_signals_ > 0 || loop_ended_; };
  mutex_.Await(absl::Condition(&over));
}

void Daemon::Drain() {
  const absl::Time deadline = absl::Now() + absl::Seconds(config_.drain_timeout_s);
  rpc_server_->SetServingState(ServingState::kDraining);
  loop_->BeginDrain();
  if (notifier_ != nullptr) {
    LogNotifyError(
        notifier_->Stopping(absl::Seconds(config_.drain_timeout_s) + kShutdownGrace + kStopMargin));
  }
  SPDLOG_INFO("event=draining num_requests={} timeout_s={}", rpc_server_->num_requests_left(),
              config_.drain_timeout_s);
  auto ended = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return loop_ended_; };
  while (rpc_server_->num_requests_left() > 0 && absl::Now() < deadline) {
    absl::MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout(absl::Condition(&ended), kDrainPollInterval)) return;
  }
  if (const int32_t num_left = rpc_server_->num_requests_left(); num_left > 0) {
    SPDLOG_WARN("event=drain_timeout num_cancelled={}", num_left);
  }
}

void Daemon::OnSignal(int signal) {
  {
    absl::MutexLock lock(&mutex_);
    // Engines end with their parent, so nothing is left behind. Logging could block: it comes
    // later.
    if (++num_signals_ > 1) ::_exit(1);
  }
  SPDLOG_INFO("event=signal signal={}", signal);
}

void Daemon::OnStateChange(ServingState state) {
  SPDLOG_INFO("event=state state={}", std::string(Name(state)));
  rpc_server_->SetServingState(state);
  if (notifier_ != nullptr) LogNotifyError(notifier_->SetStatus(Name(state)));
  if (state == ServingState::kServing) OnReady();
  if (state != ServingState::kStopped) return;
  absl::MutexLock lock(&mutex_);
  loop_ended_ = true;
}

// On the step loop's thread, which alone may ask the group for its infos.
void Daemon::OnReady() {
  {
    absl::MutexLock lock(&mutex_);
    infos_ = engines_.infos();
    if (std::exchange(was_ready_, true)) return;
  }
  if (const absl::Status status = WriteReadyFile(); !status.ok()) {
    SPDLOG_ERROR("event=ready_file_failed error=\"{}\"", std::string(status.message()));
  }
  if (notifier_ != nullptr) LogNotifyError(notifier_->Ready());
  SPDLOG_INFO("event=ready address={} metrics_address={} seconds={:.2f}", rpc_server_->address(),
              http_server_ != nullptr ? http_server_->address() : "none",
              absl::ToDoubleSeconds(absl::Now() - started_));
}

// Written beside its place and moved there, so that whoever waits for it never reads half of it.
absl::Status Daemon::WriteReadyFile() const {
  if (config_.ready_file.empty()) return absl::OkStatus();
  const std::string unfinished = config_.ready_file + ".tmp";
  std::ofstream file(unfinished);
  file << absl::StrFormat(
      "{\"listen\": \"%s\", \"admin_listen\": \"%s\", \"metrics_listen\": \"%s\"}\n",
      rpc_server_->address(), rpc_server_->admin_address(),
      http_server_ != nullptr ? http_server_->address() : "");
  file.close();
  if (!file || std::rename(unfinished.c_str(), config_.ready_file.c_str()) != 0) {
    return absl::UnknownError(absl::StrFormat("cannot write %s", config_.ready_file));
  }
  return absl::OkStatus();
}

std::vector<RankView> Daemon::Ranks() const {
  const std::vector<RankProcess> processes = engines_.rank_processes();
  std::vector<RankView> ranks(processes.size());
  absl::MutexLock lock(&mutex_);
  for (size_t r = 0; r < ranks.size(); ++r) {
    if (r < infos_.size()) ranks[r].info = infos_[r];
    ranks[r].info.rank = static_cast<int32_t>(r);
    ranks[r].pid = processes[r].pid;
    ranks[r].up = processes[r].up;
    ranks[r].weights_loaded_ratio = processes[r].weights_loaded_ratio;
    ranks[r].num_restarts = processes[r].num_restarts;
  }
  return ranks;
}

}  // namespace moed
