#include "server/rpc/validate_request.h"

#include <utf8proc.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_format.h"

namespace moed {
namespace {

// The name is echoed when it is not the served model's.
constexpr int kMaxModelNameBytes = 256;
constexpr int kMaxPriority = 100;
constexpr int kMaxSaltBytes = 256;
constexpr int kMaxClientIdBytes = 128;
constexpr int kMaxLogitBiases = 1024;
// Travels with every step of the request.
constexpr int kMaxAllowedTokenIds = 4096;
constexpr int kMaxStopStrings = 16;
constexpr int kMaxStopStringBytes = 1024;
constexpr int kMaxStopTokenIds = 64;
constexpr int kMaxLogprobs = 20;

// A range of numbers; an open end is not part of it.
struct Interval {
  double min = 0;
  double max = 0;
  bool min_open = false;
  bool max_open = false;

  bool Contains(double x) const {
    return std::isfinite(x) && (min_open ? x > min : x >= min) && (max_open ? x < max : x <= max);
  }
  std::string ToString() const {
    return absl::StrFormat("%c%g, %g%c", min_open ? '(' : '[', min, max, max_open ? ')' : ']');
  }
};

bool IsUtf8(const std::string& text) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto num_bytes = static_cast<utf8proc_ssize_t>(text.size());
  for (utf8proc_ssize_t i = 0; i < num_bytes;) {
    utf8proc_int32_t code_point = 0;
    const utf8proc_ssize_t length = utf8proc_iterate(bytes + i, num_bytes - i, &code_point);
    if (length <= 0) return false;
    i += length;
  }
  return true;
}

// Collects violations; each check adds at most one.
class Checker {
 public:
  explicit Checker(const ServedModel& model) : model_(model) {}

  void Add(std::string field, std::string description) {
    violations_.push_back({std::move(field), std::move(description)});
  }

  void Number(const std::string& field, double value, const Interval& interval) {
    if (interval.Contains(value)) return;
    Add(field, absl::StrFormat("is %g; expected a number in %s", value, interval.ToString()));
  }

  void Count(const std::string& field, int64_t count, int64_t max) {
    if (count > max)
      Add(field, absl::StrFormat("has %d entries; at most %d are allowed", count, max));
  }

  void Text(const std::string& field, const std::string& text, const Interval& num_bytes) {
    if (!num_bytes.Contains(static_cast<double>(text.size()))) {
      Add(field, absl::StrFormat("has %d bytes; expected %.0f to %.0f", text.size(), num_bytes.min,
                                 num_bytes.max));
    } else if (!IsUtf8(text)) {
      Add(field, "is not valid UTF-8");
    }
  }

  // True when the id is good.
  bool TokenId(const std::string& field, int32_t id) {
    if (HasToken(id)) return true;
    Add(field, absl::StrFormat("is %d; expected a token id in [0, %d)%s", id, model_.vocab_size,
                               model_.hole_token_ids.empty() ? "" : " that has a token"));
    return false;
  }

  template <typename Ids>
  void TokenIds(const std::string& field, const Ids& ids) {
    for (int i = 0; i < ids.size(); ++i) {
      if (HasToken(ids[i])) continue;
      TokenId(absl::StrFormat("%s[%d]", field, i), ids[i]);
      return;
    }
  }

  const ServedModel& model() const { return model_; }
  FieldViolations Take() { return std::move(violations_); }

 private:
  bool HasToken(int32_t id) const {
    return id >= 0 && id < model_.vocab_size &&
           !std::ranges::binary_search(model_.hole_token_ids, id);
  }

  const ServedModel& model_;
  FieldViolations violations_;
};

void CheckPrompt(const v1::GenerateRequest& request, Checker& check) {
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      check.Text("text", request.text(),
                 {.min = 1, .max = static_cast<double>(check.model().max_text_bytes)});
      return;
    case v1::GenerateRequest::kTokenIds:
      if (request.token_ids().ids_size() == 0) {
        check.Add("token_ids.ids", "is empty; expected at least one token id");
      } else if (request.token_ids().ids_size() >= check.model().max_model_len) {
        check.Add("token_ids.ids",
                  absl::StrFormat("has %d tokens; at most %d leave room for a generated one",
                                  request.token_ids().ids_size(), check.model().max_model_len - 1));
      } else {
        check.TokenIds("token_ids.ids", request.token_ids().ids());
      }
      return;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      check.Add("prompt", "is missing: set text or token_ids");
  }
}

void CheckTruncation(const v1::SamplingOptions& sampling, Checker& check) {
  if (sampling.has_top_k()) {
    check.Number("sampling.top_k", sampling.top_k(),
                 {.max = static_cast<double>(check.model().vocab_size)});
  }
  if (sampling.has_top_p()) {
    check.Number("sampling.top_p", sampling.top_p(), {.min = 0, .max = 1, .min_open = true});
  }
  if (sampling.has_min_p()) {
    check.Number("sampling.min_p", sampling.min_p(), {.min = 0, .max = 1, .max_open = true});
  }
}

void CheckPenalties(const v1::SamplingOptions& sampling, Checker& check) {
  if (sampling.has_presence_penalty()) {
    check.Number("sampling.presence_penalty", sampling.presence_penalty(), {.min = -2, .max = 2});
  }
  if (sampling.has_frequency_penalty()) {
    check.Number("sampling.frequency_penalty", sampling.frequency_penalty(), {.min = -2, .max = 2});
  }
  if (sampling.has_repetition_penalty()) {
    check.Number("sampling.repetition_penalty", sampling.repetition_penalty(),
                 {.min = 0, .max = 100, .min_open = true});
  }
}

void CheckLogitBias(const v1::SamplingOptions& sampling, Checker& check) {
  constexpr Interval kBias = {.min = -100, .max = 100};
  check.Count("sampling.logit_bias", sampling.logit_bias_size(), kMaxLogitBiases);
  for (const auto& [id, bias] : sampling.logit_bias()) {
    const std::string field = absl::StrFormat("sampling.logit_bias[%d]", id);
    if (!check.TokenId(field, id)) return;
    if (kBias.Contains(bias)) continue;
    check.Number(field, bias, kBias);
    return;
  }
}

void CheckSampling(const v1::SamplingOptions& sampling, Checker& check) {
  if (sampling.has_temperature()) {
    check.Number("sampling.temperature", sampling.temperature(), {.min = 0, .max = 100});
  }
  CheckTruncation(sampling, check);
  CheckPenalties(sampling, check);
  CheckLogitBias(sampling, check);
  check.Count("sampling.allowed_token_ids", sampling.allowed_token_ids_size(), kMaxAllowedTokenIds);
  check.TokenIds("sampling.allowed_token_ids", sampling.allowed_token_ids());
  check.Number("sampling.n", sampling.n(), {.min = 0, .max = kMaxSequences});
}

void CheckStopping(const v1::StoppingOptions& stopping, Checker& check) {
  const Interval tokens = {.min = 1, .max = std::numeric_limits<int32_t>::max()};
  if (stopping.has_max_tokens()) check.Number("stopping.max_tokens", stopping.max_tokens(), tokens);
  if (stopping.min_tokens() < 0 || stopping.min_tokens() >= check.model().max_model_len) {
    check.Number("stopping.min_tokens", stopping.min_tokens(),
                 {.min = 0, .max = static_cast<double>(check.model().max_model_len - 1)});
  } else if (stopping.max_tokens() > 0 && stopping.min_tokens() > stopping.max_tokens()) {
    check.Add("stopping.min_tokens", absl::StrFormat("is %d, more than max_tokens, %d",
                                                     stopping.min_tokens(), stopping.max_tokens()));
  }
  check.Count("stopping.stop", stopping.stop_size(), kMaxStopStrings);
  for (int i = 0; i < stopping.stop_size() && i < kMaxStopStrings; ++i) {
    check.Text(absl::StrFormat("stopping.stop[%d]", i), stopping.stop(i),
               {.min = 1, .max = kMaxStopStringBytes});
  }
  check.Count("stopping.stop_token_ids", stopping.stop_token_ids_size(), kMaxStopTokenIds);
  check.TokenIds("stopping.stop_token_ids", stopping.stop_token_ids());
}

// While min_tokens is not reached, eos and the stop ids are banned: something else must be left.
void CheckChoiceRemains(const v1::GenerateRequest& request, Checker& check) {
  const v1::StoppingOptions& stopping = request.stopping();
  if (stopping.min_tokens() <= 0) return;
  absl::flat_hash_set<int32_t> banned(stopping.stop_token_ids().begin(),
                                      stopping.stop_token_ids().end());
  if (!stopping.ignore_eos()) {
    const std::vector<int32_t>& eos = check.model().config.eos_token_ids;
    banned.insert(eos.begin(), eos.end());
  }
  const auto& allowed = request.sampling().allowed_token_ids();
  const bool remains =
      allowed.empty() ? static_cast<int64_t>(banned.size() + check.model().hole_token_ids.size()) <
                            check.model().vocab_size
                      : std::any_of(allowed.begin(), allowed.end(),
                                    [&](int32_t id) { return !banned.contains(id); });
  if (remains) return;
  check.Add("stopping.min_tokens",
            "leaves no token to choose: all allowed ones are eos or stop tokens, which are banned "
            "until min_tokens are generated");
}

}  // namespace

FieldViolations ValidateGenerateRequest(const v1::GenerateRequest& request,
                                        const ServedModel& model) {
  Checker check(model);
  check.Text("model", request.model(), {.min = 0, .max = kMaxModelNameBytes});
  CheckPrompt(request, check);
  CheckSampling(request.sampling(), check);
  CheckStopping(request.stopping(), check);
  CheckChoiceRemains(request, check);
  if (request.response().has_logprobs()) {
    check.Number("response.logprobs", request.response().logprobs(),
                 {.min = 0, .max = static_cast<double>(std::min(kMaxLogprobs, model.vocab_size))});
  }
  check.Number("priority", request.priority(), {.min = -kMaxPriority, .max = kMaxPriority});
  check.Text("cache_salt", request.cache_salt(), {.min = 0, .max = kMaxSaltBytes});
  check.Text("client_request_id", request.client_request_id(),
             {.min = 0, .max = kMaxClientIdBytes});
  return check.Take();
}

FieldViolations ValidateTokenizeRequest(const v1::TokenizeRequest& request,
                                        const ServedModel& model) {
  Checker check(model);
  check.Text("text", request.text(), {.min = 0, .max = static_cast<double>(model.max_text_bytes)});
  return check.Take();
}

FieldViolations ValidateDetokenizeRequest(const v1::DetokenizeRequest& request,
                                          const ServedModel& model) {
  Checker check(model);
  check.Count("token_ids", request.token_ids_size(), model.max_text_bytes);
  check.TokenIds("token_ids", request.token_ids());
  return check.Take();
}

FieldViolations ValidatePromptTokens(std::span<const int32_t> ids, const ServedModel& model) {
  Checker check(model);
  if (ids.empty()) check.Add("text", "has no tokens; expected at least one");
  if (static_cast<int64_t>(ids.size()) >= model.max_model_len) {
    check.Add("text", absl::StrFormat("has %d tokens; at most %d leave room for a generated one",
                                      ids.size(), model.max_model_len - 1));
  }
  const auto unknown =
      std::ranges::find_if(ids, [&](int32_t id) { return id >= model.vocab_size; });
  if (unknown != ids.end()) {
    check.Add("text", absl::StrFormat("has a token, id %d, that the model does not know; its ids "
                                      "end at %d",
                                      *unknown, model.vocab_size - 1));
  }
  return check.Take();
}

absl::Status CheckModelName(const std::string& name, const ServedModel& model) {
  if (name.empty() || name == model.name) return absl::OkStatus();
  return absl::NotFoundError(
      absl::StrFormat("model '%s' is not served here; '%s' is", name, model.name));
}

}  // namespace moed
