#include "engine/api/exchange_strategy.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace moed {

std::string_view Name(ExchangeStrategy strategy) {
  switch (strategy) {
    case ExchangeStrategy::kAllToAll:
      return "all_to_all";
    case ExchangeStrategy::kAllGather:
      return "all_gather";
    case ExchangeStrategy::kMeasured:
      return "measured";
  }
  return "";
}

absl::StatusOr<ExchangeStrategy> ParseExchangeStrategy(const std::string& name) {
  for (const ExchangeStrategy strategy :
       {ExchangeStrategy::kAllToAll, ExchangeStrategy::kAllGather, ExchangeStrategy::kMeasured}) {
    if (name == Name(strategy)) return strategy;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("exchange: expected all_to_all, all_gather or measured, got \"", name, "\""));
}

}  // namespace moed
