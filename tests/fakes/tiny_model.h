#pragma once

#include <cstdint>
#include <vector>

#include "config/model_config.h"
#include "engine/api/expert_placement.h"
#include "engine/runtime/local_engine_group.h"

namespace moed {

/// A model of three layers (MoE, dense, MoE), 10 experts and a vocabulary of 96, for dummy weights:
/// small enough for any test, with numbers of experts that do not divide by the numbers of ranks.
ModelConfig TinyModelConfig();

/// The tiny model with dummy weights on `placement`, one thread a rank, f32, blocks of 4 tokens.
LocalEngineGroupOptions TinyGroupOptions(const ExpertPlacement& placement);

/// Every expert of the tiny model on one rank.
ExpertPlacement TinyPlacement(int32_t num_ranks);

/// `count` token ids from 0 to vocab_size - 1, a function of the seed.
std::vector<int32_t> RandomTokens(int32_t count, int32_t vocab_size, uint64_t seed);

}  // namespace moed
