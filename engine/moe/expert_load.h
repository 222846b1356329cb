#pragma once

#include <cstdint>
#include <span>

namespace moed {

/// Adds the choices of a layer's own tokens (topk_ids [T, K]) to tokens_per_expert [num_experts].
void CountTokensPerExpert(std::span<const int32_t> topk_ids, std::span<int32_t> tokens_per_expert);

}  // namespace moed
