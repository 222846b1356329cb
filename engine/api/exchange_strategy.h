#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moed {

/// How the ranks exchange the rows of a MoE layer. The answer is the same bit for bit.
enum class ExchangeStrategy : uint8_t {
  kAllToAll,   // every row goes where it must: least bytes, but the host waits for the topk_ids
  kAllGather,  // with few tokens every rank gets all rows: no wait
  kMeasured,   // all-gather up to as many tokens as it is found to be faster for, at the start
};

/// "all_to_all", "all_gather" or "measured".
std::string_view Name(ExchangeStrategy strategy);

/// INVALID_ARGUMENT for any other name.
absl::StatusOr<ExchangeStrategy> ParseExchangeStrategy(const std::string& name);

}  // namespace moed
