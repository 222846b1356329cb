#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "server/kv/kv_block_manager.h"
#include "server/request/request.h"
#include "server/request/request_progress.h"
#include "server/scheduler/token_counter.h"

namespace moed {

struct ScheduledRequest;
struct Tenant;

enum class SequenceState : uint8_t { kWaiting, kRunning, kFinished };

/// One stream of tokens of a request. Owned by its ScheduledRequest, changed by the Scheduler only.
struct Sequence {
  uint64_t id = 0;  // unique in the scheduler's life
  ScheduledRequest* owner = nullptr;
  int32_t index = 0;  // which of the request's sequences
  SequenceState state = SequenceState::kWaiting;
  // The prompt, then what was generated. Empty until the first admission: many may wait, and each
  // would hold a copy of its prompt.
  std::vector<int32_t> token_ids;
  int32_t num_computed = 0;   // leading tokens whose K and V are in the cache
  int32_t rank = 0;           // valid while running
  bool was_admitted = false;  // at least once
  BlockTable table;           // empty unless running
  TokenCounter counter;       // filled only if the request uses penalties, from the first admission

  /// The prompt, then what was generated.
  std::span<const int32_t> tokens() const;
  int32_t num_tokens() const { return static_cast<int32_t>(tokens().size()); }
  int32_t num_uncomputed() const { return num_tokens() - num_computed; }
  int32_t num_generated() const;
  /// Only the token sampled last is to be computed.
  bool IsDecoding() const { return num_uncomputed() == 1 && num_generated() > 0; }
};

/// A request and its sequences inside the Scheduler.
struct ScheduledRequest {
  const Request* request = nullptr;
  Tenant* tenant = nullptr;  // of the Scheduler
  uint64_t arrival_number = 0;
  uint64_t admission_number = 0;    // in the order of their first admissions; 0 = not yet
  int32_t max_tokens = 0;           // clipped to the model's context
  bool is_prompt_computed = false;  // by one of its sequences: the others can now find it cached
  RequestProgress progress;
  std::vector<std::unique_ptr<Sequence>> sequences;
};

inline std::span<const int32_t> Sequence::tokens() const {
  return was_admitted ? token_ids : owner->request->prompt_token_ids;
}

inline int32_t Sequence::num_generated() const {
  return num_tokens() - static_cast<int32_t>(owner->request->prompt_token_ids.size());
}

/// The order of a tenant's sequences: who is served first, and, from its end, who is preempted
/// first. Higher priority, then earlier arrival, then lower index.
struct ServedBefore {
  bool operator()(const Sequence* a, const Sequence* b) const {
    const auto key = [](const Sequence& s) {
      return std::tuple(-int64_t{s.owner->request->priority}, s.owner->arrival_number, s.index);
    };
    return key(*a) < key(*b);
  }
};

}  // namespace moed
