#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <optional>

#include "server/request/request.h"

namespace moed {

/// The events of one request that its client has not taken yet, within a bound.
///
/// While the client is slow, deltas of the same sequence are merged, so that the events are few
/// however many tokens they stand for. Owned by a GenerateReactor and guarded by its mutex.
class PendingEvents {
 public:
  /// `sum_of_bytes`, if any, adds up what waits in several of these: Clear before it goes.
  explicit PendingEvents(int64_t max_bytes, std::atomic<int64_t>* sum_of_bytes = nullptr)
      : max_bytes_(max_bytes), sum_of_bytes_(sum_of_bytes) {}

  /// Adds an event. False, and nothing is added, when `max_bytes` or more are waiting already: one
  /// event may pass the bound, so that a bound never refuses a client that has taken all it was
  /// given.
  [[nodiscard]] bool Push(RequestEvent event);

  /// The oldest event, if there is one.
  std::optional<RequestEvent> Pop();

  void Clear();
  bool empty() const { return entries_.empty(); }
  int64_t num_bytes() const { return num_bytes_; }

 private:
  struct Entry {
    RequestEvent event;
    int64_t num_bytes = 0;  // about what it takes in memory
  };

  // The last waiting delta of a sequence, or null.
  Entry* LastDelta(int32_t index);

  void CountBytes(int64_t num_bytes);

  const int64_t max_bytes_;
  std::atomic<int64_t>* const sum_of_bytes_;
  int64_t num_bytes_ = 0;  // sum over entries_
  std::deque<Entry> entries_;
};

}  // namespace moed
