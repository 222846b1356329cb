#include "engine/rpc/engine_clients.h"

#include <grpc/support/time.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/async_stream.h>

#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/check.h"
#include "engine/rpc/conversion.h"
#include "engine/rpc/grpc_status.h"
#include "moed/engine/v1/engine.grpc.pb.h"

namespace moed {
namespace {

std::shared_ptr<grpc::Channel> CreateEngineChannel(const std::string& address) {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(kMaxEngineMessageBytes);
  args.SetMaxSendMessageSize(kMaxEngineMessageBytes);
  // An engine listens some milliseconds after it was started: look often.
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 10);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

/// One session. Every asynchronous operation has its own tag, whose address goes through the queue.
class Link {
 public:
  enum class Operation { kStart, kWrite, kRead, kFinish };
  struct Tag {
    Link* link;
    Operation operation;
  };

  Link(int32_t rank, const std::string& address, grpc::CompletionQueue* queue)
      : rank_(rank), stub_(engine::v1::EngineService::NewStub(CreateEngineChannel(address))) {
    context_.set_wait_for_ready(true);
    stream_ = stub_->AsyncSession(&context_, queue, &start_tag_);
  }

  void Cancel() { context_.TryCancel(); }

  absl::Status Send(engine::v1::EngineRequest request) {
    if (request.ByteSizeLong() > kMaxEngineMessageBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("sending to rank ", rank_, ": the message has ", request.ByteSizeLong(),
                       " bytes, at most ", kMaxEngineMessageBytes, " are allowed"));
    }
    pending_.push_back(std::move(request));
    WritePending();
    return absl::OkStatus();
  }

  /// What a finished operation means for the caller, if anything.
  std::optional<EngineEvent> OnDone(Operation operation, bool ok) {
    switch (operation) {
      case Operation::kStart:
        can_write_ = ok;
        WritePending();
        stream_->Read(&response_, &read_tag_);
        return std::nullopt;
      case Operation::kWrite:
        can_write_ = ok;  // a failed write means that the read fails too
        WritePending();
        return std::nullopt;
      case Operation::kRead:
        if (ok) return OnResponse();
        stream_->Finish(&status_, &finish_tag_);
        return std::nullopt;
      case Operation::kFinish:
        return EngineEvent{rank_, OnFinish()};
    }
    return std::nullopt;
  }

 private:
  void WritePending() {
    if (!can_write_ || pending_.empty()) return;
    can_write_ = false;
    stream_->Write(pending_.front(), &write_tag_);
    pending_.pop_front();
  }

  EngineEvent OnResponse() {
    EngineEvent event{rank_, absl::InternalError("the engine sent an empty message")};
    if (response_.has_progress()) {
      event.what = LoadProgress{.done_bytes = response_.progress().done_bytes(),
                                .total_bytes = response_.progress().total_bytes()};
    } else if (response_.has_info()) {
      event.what = FromProto(response_.info());
    } else if (response_.has_result()) {
      event.what = FromProto(response_.result());
    } else if (response_.has_group_name()) {
      event.what = GroupName{response_.group_name().name()};
    }
    stream_->Read(&response_, &read_tag_);
    return event;
  }

  absl::Status OnFinish() const {
    if (status_.ok()) return absl::UnavailableError("the engine closed its session");
    return FromGrpcStatus(status_);
  }

  const int32_t rank_;
  Tag start_tag_{this, Operation::kStart};
  Tag write_tag_{this, Operation::kWrite};
  Tag read_tag_{this, Operation::kRead};
  Tag finish_tag_{this, Operation::kFinish};
  const std::unique_ptr<engine::v1::EngineService::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<
      grpc::ClientAsyncReaderWriter<engine::v1::EngineRequest, engine::v1::EngineResponse>>
      stream_;
  bool can_write_ = false;                         // started, and no write is under way
  std::deque<engine::v1::EngineRequest> pending_;  // not written yet, in order
  engine::v1::EngineResponse response_;
  grpc::Status status_;
};

}  // namespace

class EngineClients::Impl {
 public:
  explicit Impl(const std::vector<std::string>& addresses) {
    for (const std::string& address : addresses) {
      const int32_t rank = static_cast<int32_t>(links_.size());
      links_.push_back(std::make_unique<Link>(rank, address, &queue_));
    }
  }

  ~Impl() {
    Cancel();
    queue_.Shutdown();
    void* tag = nullptr;
    bool ok = false;
    // Only what was under way comes back; nothing new is started on a queue that is shut down.
    while (queue_.Next(&tag, &ok)) {
    }
  }

  Link& link(int32_t rank) { return *links_[static_cast<size_t>(rank)]; }

  std::optional<EngineEvent> Next(absl::Duration timeout) {
    const gpr_timespec deadline =
        gpr_time_add(gpr_now(GPR_CLOCK_MONOTONIC),
                     gpr_time_from_micros(absl::ToInt64Microseconds(timeout), GPR_TIMESPAN));
    void* tag = nullptr;
    bool ok = false;
    while (queue_.AsyncNext(&tag, &ok, deadline) == grpc::CompletionQueue::GOT_EVENT) {
      const auto* done = static_cast<const Link::Tag*>(tag);
      std::optional<EngineEvent> event = done->link->OnDone(done->operation, ok);
      if (event.has_value()) return event;
    }
    return std::nullopt;
  }

  void Cancel() {
    for (const auto& link : links_) link->Cancel();
  }

 private:
  grpc::CompletionQueue queue_;
  std::vector<std::unique_ptr<Link>> links_;  // destroyed before the queue
};

EngineClients::EngineClients(const std::vector<std::string>& addresses)
    : impl_(std::make_unique<Impl>(addresses)) {}

EngineClients::~EngineClients() = default;

absl::Status EngineClients::SendConfig(int32_t rank, const EngineConfig& config) {
  engine::v1::EngineRequest request;
  *request.mutable_configure() = ToProto(config);
  return impl_->link(rank).Send(std::move(request));
}

absl::Status EngineClients::SendGroupName(int32_t rank, const GroupName& group) {
  engine::v1::EngineRequest request;
  request.mutable_group_name()->set_name(group.name);
  return impl_->link(rank).Send(std::move(request));
}

absl::Status EngineClients::SendPlan(int32_t rank, const StepPlan& plan) {
  engine::v1::EngineRequest request;
  *request.mutable_plan() = ToProto(plan);
  return impl_->link(rank).Send(std::move(request));
}

std::optional<EngineEvent> EngineClients::Next(absl::Duration timeout) {
  return impl_->Next(timeout);
}

void EngineClients::Cancel() { impl_->Cancel(); }

}  // namespace moed
