#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "client/load/stats/histogram.h"
#include "client/load/stream/request_record.h"

namespace moed::load {

/// One second of a run.
struct RunSecond {
  int64_t num_tokens = 0;  // received
  int64_t num_completed = 0;
  int64_t num_failed = 0;
  Histogram ttft{Histogram::kCoarseBits};  // ns, of first tokens of this second
  Histogram itl{Histogram::kCoarseBits};
  Histogram e2el{Histogram::kCoarseBits};  // of requests that completed in it
};

/// Everything that was measured in a run, or by one thread of it; such parts merge into one.
///
/// A value; written by one stream worker.
class RunRecording {
 public:
  struct Params {
    int64_t warmup_ns = 0;  // requests that were to be sent earlier do not count
    bool keep_details = false;
  };

  explicit RunRecording(Params params) : params_(params) {}

  /// A message with `num_tokens` (>= 1) tokens came at `now_ns`; `record` is as it was before.
  void OnTokens(const RequestRecord& record, int64_t now_ns, int64_t num_tokens);

  /// The request is over.
  void OnEnd(RequestRecord record, RequestDetail detail);

  /// The index of an error message; the ones beyond the first 64 different ones share an index.
  int32_t ErrorIndex(const std::string& message);

  /// Adds a recording of another part of the same run.
  void Merge(const RunRecording& other);

  bool Counts(const RequestRecord& record) const { return record.intended_ns >= params_.warmup_ns; }

  const Params& params() const { return params_; }
  const std::vector<RequestRecord>& records() const { return records_; }
  const std::vector<RequestDetail>& details() const { return details_; }
  const std::vector<RunSecond>& seconds() const { return seconds_; }
  const std::vector<std::string>& errors() const { return errors_; }

  /// Between messages, as vLLM counts it: a message of several tokens is one.
  const Histogram& itl() const { return itl_; }

  /// The same gaps spread over the tokens of their messages.
  const Histogram& itl_per_token() const { return itl_per_token_; }

 private:
  RunSecond& SecondAt(int64_t now_ns);

  Params params_;
  std::vector<RequestRecord> records_;
  std::vector<RequestDetail> details_;  // empty, or one for each record
  std::vector<RunSecond> seconds_;
  std::vector<std::string> errors_;
  Histogram itl_;
  Histogram itl_per_token_;
};

}  // namespace moed::load
