#include "engine/moe/expert_load.h"

#include "config/base/check.h"

namespace moed {

void CountTokensPerExpert(std::span<const int32_t> topk_ids, std::span<int32_t> tokens_per_expert) {
  for (const int32_t id : topk_ids) {
    MOED_CHECK(id >= 0 && static_cast<size_t>(id) < tokens_per_expert.size());
    ++tokens_per_expert[id];
  }
}

}  // namespace moed
