#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "server/request/request.h"

namespace moed {

/// Requests of which nothing has been scheduled yet, and the tokens of their prompts.
struct QueueLoad {
  int32_t num_requests = 0;
  int64_t num_tokens = 0;

  QueueLoad& operator+=(const QueueLoad& other) {
    num_requests += other.num_requests;
    num_tokens += other.num_tokens;
    return *this;
  }
  QueueLoad& operator-=(const QueueLoad& other) {
    num_requests -= other.num_requests;
    num_tokens -= other.num_tokens;
    return *this;
  }
};

/// The same of everybody and of each tenant that has some. A value.
struct WaitingLoad {
  QueueLoad all;
  absl::flat_hash_map<std::string, QueueLoad> by_tenant;

  void Add(const std::string& tenant, const QueueLoad& load) {
    all += load;
    by_tenant[tenant] += load;
  }
  void Add(const WaitingLoad& other) {
    for (const auto& [tenant, load] : other.by_tenant) Add(tenant, load);
  }
  QueueLoad Of(const std::string& tenant) const {
    const auto it = by_tenant.find(tenant);
    return it == by_tenant.end() ? QueueLoad() : it->second;
  }
};

inline QueueLoad LoadOf(const Request& request) {
  return {.num_requests = 1, .num_tokens = static_cast<int64_t>(request.prompt_token_ids.size())};
}

}  // namespace moed
