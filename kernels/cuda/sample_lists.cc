#include <algorithm>
#include <limits>
#include <type_traits>

#include "kernels/cuda/sampling.h"
#include "kernels/philox.h"

namespace moed::kernels::cuda {
namespace {

/// Appends ids, with a value beside each.
template <typename Ids, typename ValueOf>
ListRange Append(const Ids& ids, ValueOf value_of, SampleLists& lists) {
  const ListRange range = {.begin = static_cast<int32_t>(lists.ids.size()),
                           .count = static_cast<int32_t>(ids.size())};
  for (size_t i = 0; i < ids.size(); ++i) {
    if constexpr (std::is_same_v<std::decay_t<decltype(ids[i])>, int32_t>) {
      lists.ids.push_back(ids[i]);
    } else {
      lists.ids.push_back(ids[i].first);
    }
    lists.values.push_back(value_of(i));
  }
  return range;
}

}  // namespace

SampleLists MakeSampleLists(std::span<const SampleRow> rows, int32_t num_valid_tokens) {
  SampleLists lists;
  const auto nothing = [](size_t) { return 0.0f; };
  for (const SampleRow& row : rows) {
    SampleRequest r = {.uniform = UniformForToken(row.seed, row.sequence_index, row.position),
                       .top_p = row.top_p,
                       .min_p = std::min(row.min_p, 1.0f),
                       .presence_penalty = row.presence_penalty,
                       .frequency_penalty = row.frequency_penalty,
                       .repetition_penalty = row.repetition_penalty,
                       .is_greedy = row.temperature <= 0.0f,
                       .top_k = row.top_k > 0 && row.top_k < num_valid_tokens ? row.top_k : 0,
                       .num_top_logprobs = std::min(row.num_top_logprobs, num_valid_tokens)};
    if (r.is_greedy == 0) {
      r.inverse_temperature = std::min(1.0f / row.temperature, std::numeric_limits<float>::max());
    }
    r.bias = Append(
        row.logit_bias, [&](size_t i) { return row.logit_bias[i].second; }, lists);
    r.allowed = Append(row.allowed_token_ids, nothing, lists);
    r.banned = Append(row.banned_token_ids, nothing, lists);
    const auto count_of = [&](size_t i) {
      return i < row.output_counts.size() ? static_cast<float>(row.output_counts[i]) : 0.0f;
    };
    r.counted = Append(row.counted_token_ids, count_of, lists);
    lists.num_top_logprobs = std::max(lists.num_top_logprobs, r.num_top_logprobs);
    lists.requests.push_back(r);
  }
  return lists;
}

void ReadSamples(const SampleLists& lists, std::span<const SampledToken> tokens,
                 std::span<const TokenLogprob> top, std::span<SampleOutput> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].token_id = tokens[i].token_id;
    const int32_t num_top = lists.requests[i].num_top_logprobs;
    if (num_top < 0) continue;
    out[i].logprob = tokens[i].logprob;
    for (int32_t j = 0; j < num_top; ++j) {
      const TokenLogprob& t = top[i * static_cast<size_t>(lists.num_top_logprobs) + j];
      out[i].top_logprobs.emplace_back(t.token_id, t.logprob);
    }
  }
}

}  // namespace moed::kernels::cuda
