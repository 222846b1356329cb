#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "engine/comm/shm_communicator.h"

namespace moed {
namespace {

bool InRange(const ExchangeShape& shape) {
  return shape.num_ranks >= 1 && shape.max_tokens_per_rank >= 0 && shape.hidden_size >= 1 &&
         shape.top_k >= 1 && shape.max_slots_per_rank >= 0;
}

}  // namespace

absl::StatusOr<int64_t> MaxExchangeBytesPerRank(const ExchangeShape& shape) {
  if (!InRange(shape)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "sizing the exchange: ", shape.num_ranks, " ranks, ", shape.max_tokens_per_rank,
        " tokens per rank, hidden size ", shape.hidden_size, ", top_k ", shape.top_k, ", ",
        shape.max_slots_per_rank, " slots per rank: a count is out of range"));
  }
  const uint64_t tokens = shape.max_tokens_per_rank;
  const uint64_t peer_tokens = tokens * static_cast<uint64_t>(shape.num_ranks - 1);
  const uint64_t rows_per_token = std::max(1, std::min(shape.top_k, shape.max_slots_per_rank));
  // The dispatch has peer_tokens rows, so the combine, with as many or more, bounds it.
  const auto rows = CheckedMul(peer_tokens, rows_per_token);
  const auto row_bytes = CheckedMul(shape.hidden_size, SizeBytes(shape.activation));
  const auto bytes = rows && row_bytes ? CheckedMul(*rows, *row_bytes) : std::nullopt;
  if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError("sizing the exchange: more than 2^63 bytes");
  }
  if (shape.num_ranks == 1) return 0;
  // With few tokens every rank gets all rows, and all topk_ids and weights with them.
  const uint64_t choice_bytes = static_cast<uint64_t>(shape.top_k) * 2 * sizeof(int32_t);
  const auto token_bytes = CheckedAdd(*row_bytes, choice_bytes);
  const auto gathered = token_bytes ? CheckedMul(tokens, *token_bytes) : std::nullopt;
  if (!gathered || *gathered > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError("sizing the exchange: more than 2^63 bytes");
  }
  return static_cast<int64_t>(std::max(*bytes, *gathered));
}

}  // namespace moed
