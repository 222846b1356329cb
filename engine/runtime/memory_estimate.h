#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/comm/shm_communicator.h"
#include "engine/kv/paged_kv_cache.h"
#include "engine/runtime/local_engine.h"

namespace moed {

/// The KV cache that an engine with these options has.
PagedKvCacheOptions KvCacheOptions(const ModelConfig& config, const LocalEngineOptions& options);

/// What bounds the exchange between the ranks; the same on every rank. Whoever creates the shared
/// segment sizes it with MaxExchangeBytesPerRank of this.
ExchangeShape ExchangeShapeOf(const ModelConfig& config, const ExpertPlacement& placement,
                              const LocalEngineOptions& options);

/// One rank's share of that segment; 0 with one rank.
absl::StatusOr<int64_t> ExchangeBytes(const ExchangeShape& shape);

}  // namespace moed
