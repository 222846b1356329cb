#include "client/load/stream/run_recording.h"

#include <algorithm>
#include <utility>

namespace moed::load {
namespace {

constexpr size_t kMaxErrors = 64;
constexpr int64_t kNsPerSecond = 1'000'000'000;
constexpr int64_t kMaxSeconds = 1'000'000;

}  // namespace

void RunRecording::OnTokens(const RequestRecord& record, int64_t now_ns, int64_t num_tokens) {
  RunSecond& second = SecondAt(now_ns);
  second.num_tokens += num_tokens;
  if (record.slow_reader) return;
  if (record.first_token_ns == 0) {
    second.ttft.Add(now_ns - record.intended_ns);
    return;
  }
  const int64_t gap = now_ns - record.last_token_ns;
  second.itl.Add(gap);
  if (!Counts(record)) return;
  itl_.Add(gap);
  itl_per_token_.Add(gap / num_tokens, num_tokens);
}

void RunRecording::OnEnd(RequestRecord record, RequestDetail detail) {
  RunSecond& second = SecondAt(record.end_ns);
  if (record.outcome == RequestOutcome::kCompleted) {
    ++second.num_completed;
    if (!record.slow_reader) second.e2el.Add(record.last_token_ns - record.intended_ns);
  } else if (record.outcome == RequestOutcome::kFailed) {
    ++second.num_failed;
  }
  records_.push_back(record);
  if (params_.keep_details) details_.push_back(std::move(detail));
}

int32_t RunRecording::ErrorIndex(const std::string& message) {
  const auto found = std::find(errors_.begin(), errors_.end(), message);
  if (found != errors_.end()) return static_cast<int32_t>(found - errors_.begin());
  if (errors_.size() + 1 < kMaxErrors) {
    errors_.push_back(message);
  } else if (errors_.size() < kMaxErrors) {
    errors_.push_back("other errors");
  }
  return static_cast<int32_t>(errors_.size() - 1);
}

void RunRecording::Merge(const RunRecording& other) {
  for (RequestRecord record : other.records_) {
    if (record.error >= 0)
      record.error = ErrorIndex(other.errors_[static_cast<size_t>(record.error)]);
    records_.push_back(record);
  }
  details_.insert(details_.end(), other.details_.begin(), other.details_.end());
  if (seconds_.size() < other.seconds_.size()) seconds_.resize(other.seconds_.size());
  for (size_t i = 0; i < other.seconds_.size(); ++i) {
    const RunSecond& from = other.seconds_[i];
    RunSecond& to = seconds_[i];
    to.num_tokens += from.num_tokens;
    to.num_completed += from.num_completed;
    to.num_failed += from.num_failed;
    to.ttft.Merge(from.ttft);
    to.itl.Merge(from.itl);
    to.e2el.Merge(from.e2el);
  }
  itl_.Merge(other.itl_);
  itl_per_token_.Merge(other.itl_per_token_);
}

RunSecond& RunRecording::SecondAt(int64_t now_ns) {
  const auto index =
      static_cast<size_t>(std::clamp<int64_t>(now_ns / kNsPerSecond, 0, kMaxSeconds));
  if (index >= seconds_.size()) seconds_.resize(index + 1);
  return seconds_[index];
}

}  // namespace moed::load
