#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/api/step.h"
#include "server/metrics/metrics_sink.h"
#include "server/request/request.h"
#include "server/request/request_progress.h"
#include "server/request/sequence_output.h"

namespace moed {

/// A request between its acceptance and its last event: its outputs, its times, and its sink.
///
/// Owned by LiveRequests; step-loop thread only. It does not move: the scheduler and the outputs
/// refer to its Request.
class ActiveRequest {
 public:
  /// What a token did beyond its events.
  struct TokenEffect {
    bool was_stopped_by_text = false;  // by a stop string: the scheduler does not know yet
    std::optional<absl::Duration> since_last_token;  // nothing for a sequence's first
  };

  /// `arrival_number` orders requests. `sink` is shared with the RPC, which may end first.
  ActiveRequest(Request request, std::shared_ptr<RequestSink> sink, const Tokenizer& tokenizer,
                uint64_t arrival_number);
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

  const Request& request() const { return request_; }
  uint64_t arrival_number() const { return arrival_number_; }
  bool is_finished() const { return num_live_sequences_ == 0; }
  /// The sink has refused an event: it gets no more of them, and the request must be failed.
  bool is_sink_full() const { return is_sink_full_; }
  bool has_token() const { return first_token_ != absl::InfiniteFuture(); }

  /// Sends what a token of sequence `index` gives to the sink.
  TokenEffect OnToken(int32_t index, SampledToken token, const std::optional<SequenceEnd>& end,
                      absl::Time now);

  /// For a request that wants its timing: the totals of all steps before its first one, and those
  /// up to its first token.
  void MarkFirstStep(const StepTotals& totals) { before_first_step_ = totals; }
  void MarkFirstToken(const StepTotals& totals) { at_first_token_ = totals; }

  /// Sends the UsageEvent, after every sequence has finished. The request is over. `totals` are
  /// those of all steps.
  RequestOutcome Complete(const RequestProgress& progress, const StepTotals& totals,
                          absl::Time now);

  /// Sends an error. The request is over.
  RequestOutcome Fail(const absl::Status& status, const RequestProgress& progress, absl::Time now);

 private:
  struct SequenceProgress {
    SequenceOutput output;
    absl::Time last_token = absl::InfiniteFuture();
  };

  void Send(RequestEvent event);
  RequestOutcome MakeOutcome(std::string_view result, const RequestProgress& progress,
                             absl::Time now) const;
  std::shared_ptr<const RequestTiming> MakeTiming(const RequestOutcome& outcome,
                                                  const StepTotals& totals) const;
  int32_t num_generated() const;

  const Request request_;
  const std::shared_ptr<RequestSink> sink_;
  const uint64_t arrival_number_;
  std::vector<SequenceProgress> sequences_;
  int32_t num_live_sequences_;
  bool is_sink_full_ = false;
  bool has_length_finish_ = false;
  absl::Time first_token_ = absl::InfiniteFuture();
  StepTotals before_first_step_;  // these two only if the timing is wanted
  StepTotals at_first_token_;
};

}  // namespace moed
