#include "server/rpc/pending_events.h"

#include <iterator>
#include <utility>

namespace moed {
namespace {

// A merged delta stays well below the 4 MB that a gRPC client takes by default.
constexpr int64_t kMaxMergedBytes = 256 << 10;
constexpr int64_t kEventBytes = sizeof(RequestEvent);

int64_t NumBytes(const RequestEvent& event) {
  int64_t num_bytes = kEventBytes;
  if (const auto* delta = std::get_if<DeltaEvent>(&event); delta != nullptr) {
    num_bytes += static_cast<int64_t>(delta->text.size());
    for (const GeneratedToken& token : delta->tokens) {
      num_bytes += static_cast<int64_t>(sizeof(GeneratedToken) +
                                        token.top_logprobs.size() * sizeof(TokenLogprob));
    }
  }
  return num_bytes;
}

void Append(DeltaEvent from, DeltaEvent& to) {
  to.text += from.text;
  to.tokens.insert(to.tokens.end(), std::make_move_iterator(from.tokens.begin()),
                   std::make_move_iterator(from.tokens.end()));
}

}  // namespace

// Few events wait at a time: two for each sequence, and one for each kMaxMergedBytes of its output.
PendingEvents::Entry* PendingEvents::LastDelta(int32_t index) {
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    const auto* delta = std::get_if<DeltaEvent>(&entry->event);
    if (delta != nullptr && delta->index == index) return &*entry;
  }
  return nullptr;
}

bool PendingEvents::Push(RequestEvent event) {
  if (num_bytes_ >= max_bytes_) return false;
  const int64_t num_bytes = NumBytes(event);
  CountBytes(num_bytes);
  if (auto* delta = std::get_if<DeltaEvent>(&event); delta != nullptr) {
    Entry* last = LastDelta(delta->index);
    if (last != nullptr && last->num_bytes + num_bytes <= kMaxMergedBytes) {
      Append(std::move(*delta), std::get<DeltaEvent>(last->event));
      last->num_bytes += num_bytes;
      return true;
    }
  }
  entries_.push_back({std::move(event), num_bytes});
  return true;
}

std::optional<RequestEvent> PendingEvents::Pop() {
  if (entries_.empty()) return std::nullopt;
  Entry entry = std::move(entries_.front());
  entries_.pop_front();
  CountBytes(-entry.num_bytes);
  return std::move(entry.event);
}

void PendingEvents::Clear() {
  entries_.clear();
  CountBytes(-num_bytes_);
}

void PendingEvents::CountBytes(int64_t num_bytes) {
  num_bytes_ += num_bytes;
  if (sum_of_bytes_ != nullptr) *sum_of_bytes_ += num_bytes;
}

}  // namespace moed
