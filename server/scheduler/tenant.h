#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>

#include "server/scheduler/sequence.h"
#include "server/scheduler/waiting_load.h"

namespace moed {

/// What the Scheduler knows of one tenant.
struct Tenant {
  std::set<Sequence*, ServedBefore> waiting;
  QueueLoad queued;
  int32_t num_requests = 0;  // in the scheduler
  /// Tokens computed for it. One that comes anew starts at the least of those that are there, so
  /// that it neither has a right to what it did not use while it was away nor waits for the others.
  int64_t service = 0;
};

/// The tenants of a Scheduler; names come from the token file, so there are few. Not thread-safe.
class Tenants {
 public:
  /// The tenant of a request that comes.
  Tenant& Enter(const std::string& name) {
    UpdateLeastService();
    Tenant& tenant = tenants_[name];
    if (tenant.num_requests == 0) tenant.service = std::max(tenant.service, least_service_);
    ++tenant.num_requests;
    return tenant;
  }

  std::map<std::string, Tenant>& all() { return tenants_; }

  int32_t num_waiting_sequences() const {
    int32_t sum = 0;
    for (const auto& [name, tenant] : tenants_) sum += static_cast<int32_t>(tenant.waiting.size());
    return sum;
  }

  WaitingLoad waiting_load() const {
    WaitingLoad load;
    for (const auto& [name, tenant] : tenants_) {
      if (tenant.queued.num_requests > 0) load.Add(name, tenant.queued);
    }
    return load;
  }

 private:
  void UpdateLeastService() {
    bool is_first = true;
    int64_t least = 0;
    for (const auto& [name, tenant] : tenants_) {
      if (tenant.num_requests == 0) continue;
      least = is_first ? tenant.service : std::min(least, tenant.service);
      is_first = false;
    }
    least_service_ = std::max(least_service_, least);
  }

  std::map<std::string, Tenant> tenants_;  // by name; they stay where they are
  int64_t least_service_ = 0;              // never falls
};

}  // namespace moed
