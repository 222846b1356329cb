#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "moed/v1/inference.pb.h"
#include "server/request/request.h"
#include "server/rpc/admission.h"
#include "server/rpc/event_conversion.h"
#include "server/rpc/pending_events.h"
#include "server/rpc/trace_context.h"
#include "server/step_loop.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// One Generate call: takes the request's events from the step loop and writes them to the client.
///
/// Shared by gRPC (it owns itself until OnDone) and the step loop (as the request's sink), so that
/// either may let go first. Events come from the step loop's thread, On* calls from gRPC's threads.
/// One write is under way at a time; meanwhile events wait in PendingEvents, and Finish is called
/// once, when no write is under way. Once the request has ended, the client has `unread_timeout` to
/// take what is left.
class GenerateReactor final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                              public RequestSink,
                              public std::enable_shared_from_this<GenerateReactor> {
 public:
  struct Params {
    grpc::CallbackServerContext& context;  // lives until OnDone
    StepLoop& loop;
    const Tokenizer& tokenizer;
    const Admission& admission;
    std::atomic<int32_t>& num_calls;          // counts this call until OnDone
    std::atomic<int64_t>& num_pending_bytes;  // and what waits for its client
    int64_t max_pending_bytes = 0;
    absl::Duration unread_timeout = absl::Seconds(60);
    std::string request_id;
    std::string tenant;                 // for the log only
    std::string client_request_id;      // for the log only
    std::optional<TraceContext> trace;  // the same
    absl::Time arrival;
    absl::Time deadline = absl::InfiniteFuture();
  };

  /// The answer to one call. gRPC owns it from now on: return it from the handler, after Submit or
  /// Refuse.
  static std::shared_ptr<GenerateReactor> Create(Params params);

  /// Takes what the call uses of its tenant's limits, until gRPC and the step loop have both let
  /// go. Before Submit.
  void SetTicket(CallTicket ticket) { ticket_ = std::move(ticket); }

  /// Hands the request to the step loop; the stream begins with Accepted, or ends with the refusal.
  /// May come from any thread, also after OnCancel.
  void Submit(Request request, const EventFormat& format);

  /// Ends the call without a message.
  void Refuse(const absl::Status& status);

  // RequestSink
  bool OnEvent(RequestEvent event) override;
  void OnError(const absl::Status& status) override;

  // grpc::ServerWriteReactor
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  explicit GenerateReactor(Params params);

  // What to do next: nothing, write a message, write an event, or finish.
  using Action = std::variant<std::monostate, v1::GenerateResponse, RequestEvent, absl::Status>;

  void Advance() ABSL_LOCKS_EXCLUDED(mutex_);
  Action TakeAction() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Ends the stream without what waits to be written. True if the request had not ended yet.
  bool Abandon(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Abandons the stream and tells the step loop.
  void AbandonAndCancel(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  // How the request failed, if it has.
  std::optional<absl::Status> Failure() ABSL_LOCKS_EXCLUDED(mutex_);
  // Gives the client a limited time for what it has not taken of a request that ended.
  void LimitUnread() ABSL_LOCKS_EXCLUDED(mutex_);
  void CutOff(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);
  void Write(v1::GenerateResponse message);
  void FinishWith(const absl::Status& status);
  void Log(const absl::Status& status) ABSL_LOCKS_EXCLUDED(mutex_);

  const Params params_;
  std::shared_ptr<GenerateReactor> self_;  // what gRPC holds; dropped in OnDone
  CallTicket ticket_;                      // set before the step loop knows the request
  EventFormat format_;                     // the same
  grpc::Alarm unread_alarm_;               // set at most once; cancelled in OnDone
  v1::GenerateResponse message_;  // what is being written; touched only by whoever set writing_

  absl::Mutex mutex_;
  PendingEvents pending_ ABSL_GUARDED_BY(mutex_);
  std::optional<v1::GenerateResponse> accepted_ ABSL_GUARDED_BY(mutex_);  // waits to be the first
  bool open_ ABSL_GUARDED_BY(mutex_) = false;           // it is known what comes first
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;        // a write is under way
  bool cutting_off_ ABSL_GUARDED_BY(mutex_) = false;    // the context is in use: do not finish yet
  bool is_limited_ ABSL_GUARDED_BY(mutex_) = false;     // the alarm was or is being set
  bool setting_alarm_ ABSL_GUARDED_BY(mutex_) = false;  // the alarm is in use: do not finish yet
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;      // Finish was or is being called
  std::optional<absl::Status> end_
      ABSL_GUARDED_BY(mutex_);  // how the request ended; no event follows
  std::optional<UsageEvent> usage_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moed
