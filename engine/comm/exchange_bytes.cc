#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "config/base/checked_math.h"
#include "engine/comm/shm_communicator.h"

namespace moed {
namespace {

bool InRange(const ExchangeShape& shape) {
  return shape.num_ranks >= 1 && shape.max_tokens_per_rank >= 0 && shape.hidden_size >= 1 &&
         shape.top_k >= 1 && shape.max_slots_per_rank >= 0 && shape.max_gather_tokens >= 0;
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
  const uint64_t ids_bytes = tokens * static_cast<uint64_t>(shape.top_k) * sizeof(int32_t);
  const uint64_t most = std::max(*bytes, shape.num_ranks > 1 ? ids_bytes : 0);
  // A gathered token has at least one row to return, and its topk_ids beside it on the way out.
  const uint64_t peer_choices = static_cast<uint64_t>(shape.max_gather_tokens) *
                                static_cast<uint64_t>(shape.num_ranks - 1) *
                                static_cast<uint64_t>(shape.top_k);
  const auto returned = CheckedMul(peer_choices, *row_bytes);
  const auto gathered = returned ? CheckedAdd(*returned, peer_choices * sizeof(int32_t)) : returned;
  if (!gathered || *gathered > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError("sizing the exchange: more than 2^63 bytes");
  }
  return static_cast<int64_t>(std::max(most, *gathered));
}

}  // namespace moed
