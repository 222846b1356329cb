#include "tests/client/load/instant_server.h"

#include <grpcpp/alarm.h>
#include <grpcpp/resource_quota.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "config/base/check.h"
#include "moed/v1/admin.grpc.pb.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed::load {
namespace {

using Clock = std::chrono::system_clock;

constexpr int32_t kVocabSize = 5000;
constexpr int kNumLayers = 2;
constexpr int kNumExperts = 8;
constexpr int kNumRanks = 2;

Clock::duration Seconds(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

uint64_t HashOf(const v1::GenerateRequest& request) {
  uint64_t hash = 14695981039346656037u;
  for (const int32_t id : request.token_ids().ids()) {
    hash = (hash ^ static_cast<uint64_t>(id)) * 1099511628211u;
  }
  for (const char c : request.text()) hash = (hash ^ static_cast<uint8_t>(c)) * 1099511628211u;
  return hash;
}

/// Counts of the server as a whole. Any thread.
struct Counts {
  std::atomic<int64_t> num_requests = 0;
  std::atomic<int64_t> num_cancelled = 0;
  std::atomic<int64_t> num_running = 0;
  std::atomic<int64_t> num_prompt_tokens = 0;
  std::atomic<int64_t> num_generated_tokens = 0;
  std::array<std::array<std::atomic<int64_t>, kNumExperts>, kNumLayers> rows = {};

  void Route(const v1::GenerateRequest& request) {
    for (const int32_t id : request.token_ids().ids()) {
      for (int layer = 0; layer < kNumLayers; ++layer) {
        ++rows[layer][id % kNumExperts];
        ++rows[layer][(id + layer) % kNumExperts];
      }
    }
    num_prompt_tokens += request.token_ids().ids_size();
  }
};

/// Streams one answer. Lives until OnDone.
class Answer final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  struct Params {
    const InstantServerOptions& options;
    Counts& counts;
    const v1::GenerateRequest& request;
    int64_t number = 0;
    Clock::time_point start;
  };

  explicit Answer(const Params& params)
      : options_(params.options),
        counts_(params.counts),
        hash_(HashOf(params.request)),
        num_tokens_(params.request.stopping().max_tokens()),
        with_ids_(params.request.response().return_token_ids()) {
    ++counts_.num_running;
    counts_.Route(params.request);
    if (options_.corrupt_every > 0 && (params.number + 1) % options_.corrupt_every == 0) {
      corrupt_at_ = num_tokens_ - 1;
    }
    message_.mutable_accepted()->set_num_prompt_tokens(
        std::max(1, params.request.token_ids().ids_size()));
    if (params.start <= Clock::now()) {
      StartWrite(&message_);
    } else {
      SetAlarm(params.start);
    }
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status::CANCELLED);
    if (num_sent_ > 0 && num_sent_ < num_tokens_ && options_.token_interval_s > 0) {
      SetAlarm(Clock::now() + Seconds(options_.token_interval_s));
      return;
    }
    WriteNext();
  }

  void OnCancel() override { is_cancelled_ = true; }

  void OnDone() override {
    if (is_cancelled_) ++counts_.num_cancelled;
    --counts_.num_running;
    delete this;
  }

 private:
  // A new alarm each time: the callback of the last one may not have returned yet.
  void SetAlarm(Clock::time_point at) {
    alarm_.emplace();
    alarm_->Set(at, [this](bool) { num_sent_ == 0 ? StartWrite(&message_) : WriteNext(); });
  }

  void WriteNext() {
    if (is_cancelled_) return Finish(grpc::Status::CANCELLED);
    if (num_sent_ < num_tokens_) {
      FillDelta();
      StartWrite(&message_);
    } else if (!std::exchange(is_done_, true)) {
      v1::Usage* usage = message_.mutable_done()->mutable_usage();
      usage->set_num_generated_tokens(num_sent_);
      usage->set_queue_seconds(0.001);
      StartWrite(&message_);
    } else {
      Finish(grpc::Status::OK);
    }
  }

  void FillDelta() {
    const int32_t count = std::min(options_.tokens_per_message, num_tokens_ - num_sent_);
    v1::Delta* delta = message_.mutable_delta();
    delta->Clear();
    delta->set_num_tokens(count);
    delta->set_text(" word");
    for (int32_t i = 0; i < count && with_ids_; ++i) {
      const int32_t at = num_sent_ + i;
      delta->add_token_ids(
          static_cast<int32_t>((hash_ + static_cast<uint64_t>(at) * 7919) % kVocabSize) +
          (at == corrupt_at_ ? 1 : 0));
    }
    num_sent_ += count;
    counts_.num_generated_tokens.fetch_add(count, std::memory_order_relaxed);
  }

  const InstantServerOptions& options_;
  Counts& counts_;
  const uint64_t hash_;
  const int32_t num_tokens_;
  const bool with_ids_;
  int32_t num_sent_ = 0;
  int32_t corrupt_at_ = -1;
  bool is_done_ = false;
  std::atomic<bool> is_cancelled_ = false;
  v1::GenerateResponse message_;
  std::optional<grpc::Alarm> alarm_;
};

/// Refuses one request.
class Refusal final : public grpc::ServerWriteReactor<v1::GenerateResponse> {
 public:
  Refusal() { Finish({grpc::StatusCode::RESOURCE_EXHAUSTED, "the queue is full"}); }
  void OnDone() override { delete this; }
};

class Inference final : public v1::InferenceService::CallbackService {
 public:
  Inference(const InstantServerOptions& options, Counts& counts)
      : options_(options), counts_(counts) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext*, const v1::GenerateRequest* request) override {
    const int64_t number = counts_.num_requests++;
    if (options_.fail_every > 0 && (number + 1) % options_.fail_every == 0) return new Refusal();
    return new Answer({.options = options_,
                       .counts = counts_,
                       .request = *request,
                       .number = number,
                       .start = StartOf(number)});
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest*,
                                     v1::GetModelResponse* response) override {
    response->set_name("instant");
    response->set_vocab_size(kVocabSize);
    response->set_max_model_len(options_.max_model_len);
    response->set_num_moe_layers(kNumLayers);
    response->set_num_experts(kNumExperts);
    response->set_top_k(2);
    response->add_eos_token_ids(2);
    return Ok(context);
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    for (const char c : request->text()) response->add_token_ids(static_cast<uint8_t>(c));
    return Ok(context);
  }

 private:
  static grpc::ServerUnaryReactor* Ok(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  // Requests are served one after the other when they take time.
  Clock::time_point StartOf(int64_t number) {
    const double service_s = number == options_.stall_at ? options_.stall_s : options_.service_s;
    absl::MutexLock lock(&mutex_);
    busy_until_ = std::max(busy_until_, Clock::now()) + Seconds(service_s);
    return busy_until_;
  }

  const InstantServerOptions options_;
  Counts& counts_;
  absl::Mutex mutex_;
  Clock::time_point busy_until_ ABSL_GUARDED_BY(mutex_);
};

class Admin final : public v1::AdminService::CallbackService {
 public:
  explicit Admin(Counts& counts) : counts_(counts) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) override {
    response->set_state(v1::SERVING_STATE_SERVING);
    response->set_model("instant");
    response->set_num_ranks(kNumRanks);
    response->set_num_running_sequences(static_cast<int32_t>(counts_.num_running));
    response->set_num_generated_tokens(counts_.num_generated_tokens);
    for (int rank = 0; rank < kNumRanks; ++rank) response->add_ranks()->set_num_blocks(100);
    return Ok(context);
  }

  grpc::ServerUnaryReactor* GetExperts(grpc::CallbackServerContext* context,
                                       const v1::GetExpertsRequest*,
                                       v1::GetExpertsResponse* response) override {
    response->set_num_experts(kNumExperts);
    response->set_top_k(2);
    std::vector<int64_t> rows(kNumRanks);
    for (int i = 0; i < kNumLayers; ++i) {
      v1::LayerExperts* layer = response->add_layers();
      layer->set_layer(i);
      for (int expert = 0; expert < kNumExperts; ++expert) {
        const int rank = expert * kNumRanks / kNumExperts;
        layer->add_tokens_per_expert(counts_.rows[i][expert]);
        rows[rank] += counts_.rows[i][expert];
        v1::ExpertSlot* slot = layer->add_slots();
        slot->set_expert_id(expert);
        slot->set_rank(rank);
      }
    }
    for (const int64_t of_rank : rows) response->add_rows_per_rank(of_rank);
    return Ok(context);
  }

 private:
  static grpc::ServerUnaryReactor* Ok(grpc::CallbackServerContext* context) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

  Counts& counts_;
};

}  // namespace

struct InstantServer::Parts {
  explicit Parts(const InstantServerOptions& options) : inference(options, counts), admin(counts) {}

  Counts counts;
  Inference inference;
  Admin admin;
  std::string address;
  std::unique_ptr<grpc::Server> server;
};

InstantServer::InstantServer(const InstantServerOptions& options)
    : parts_(std::make_unique<Parts>(options)) {
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options.address, grpc::InsecureServerCredentials(), &port);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, 0);
  builder.RegisterService(&parts_->inference);
  builder.RegisterService(&parts_->admin);
  parts_->server = builder.BuildAndStart();
  MOED_CHECK(parts_->server != nullptr);
  const bool is_unix = options.address.rfind("unix:", 0) == 0;
  parts_->address = is_unix ? options.address : absl::StrCat("127.0.0.1:", port);
}

InstantServer::~InstantServer() {
  parts_->server->Shutdown(Clock::now());
  parts_->server->Wait();
}

const std::string& InstantServer::address() const { return parts_->address; }
int64_t InstantServer::num_requests() const { return parts_->counts.num_requests; }
int64_t InstantServer::num_cancelled() const { return parts_->counts.num_cancelled; }

}  // namespace moed::load
