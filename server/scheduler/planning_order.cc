#include "server/scheduler/planning_order.h"

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "server/scheduler/tenant.h"

namespace moed {

std::vector<Sequence*> DecodeOrder(const std::set<Sequence*, ServedBefore>& running) {
  absl::flat_hash_map<const Tenant*, uint64_t> newest;  // number of the newest admission
  for (const Sequence* sequence : running) {
    uint64_t& number = newest[sequence->owner->tenant];
    number = std::max(number, sequence->owner->admission_number);
  }
  std::vector<Sequence*> order(running.begin(), running.end());
  if (newest.size() < 2) return order;
  std::ranges::stable_sort(
      order, {}, [&newest](const Sequence* sequence) { return newest[sequence->owner->tenant]; });
  return order;
}

std::vector<Sequence*> PrefillOrder(const std::set<Sequence*, ServedBefore>& running) {
  std::vector<Sequence*> order;
  for (Sequence* sequence : running) {
    if (!sequence->IsDecoding()) order.push_back(sequence);
  }
  std::ranges::stable_sort(
      order, {}, [](const Sequence* sequence) { return sequence->owner->tenant->service; });
  return order;
}

}  // namespace moed
