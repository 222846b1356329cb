#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "moed/v1/inference.pb.h"
#include "server/rpc/field_violation.h"
#include "server/rpc/served_model.h"

namespace moed {

/// Most sequences of one request.
inline constexpr int kMaxSequences = 64;

/// Everything that is wrong with a request, one entry for each field at fault (the first element at
/// fault of a repeated one), in the order of the proto; empty for a good request. Pure.
///
/// How long a text is in tokens is known only after tokenization: see ValidatePromptTokens.
FieldViolations ValidateGenerateRequest(const v1::GenerateRequest& request,
                                        const ServedModel& model);
FieldViolations ValidateTokenizeRequest(const v1::TokenizeRequest& request,
                                        const ServedModel& model);
FieldViolations ValidateDetokenizeRequest(const v1::DetokenizeRequest& request,
                                          const ServedModel& model);

/// The tokens of `text`: at least one, room for one more, and all known to the model (a tokenizer
/// may have more than the model has embeddings for).
FieldViolations ValidatePromptTokens(std::span<const int32_t> ids, const ServedModel& model);

/// NOT_FOUND unless `name` is empty or the served model's. Repeats `name`: validate its length
/// first.
absl::Status CheckModelName(const std::string& name, const ServedModel& model);

}  // namespace moed
