#pragma once

#include "absl/status/status.h"
#include "moed/v1/inference.pb.h"
#include "server/rpc/field_violation.h"
#include "server/rpc/served_model.h"

namespace moed {

/// Everything that is wrong with a request, one entry for each field at fault (the first element at
/// fault of a repeated one), in the order of the proto; empty for a good request. Pure.
///
/// How long a text is in tokens is known only after tokenization: see ValidatePromptLength.
FieldViolations ValidateGenerateRequest(const v1::GenerateRequest& request,
                                        const ServedModel& model);
FieldViolations ValidateTokenizeRequest(const v1::TokenizeRequest& request,
                                        const ServedModel& model);
FieldViolations ValidateDetokenizeRequest(const v1::DetokenizeRequest& request,
                                          const ServedModel& model);

/// A prompt has at least one token and leaves room for one more.
FieldViolations ValidatePromptLength(int64_t num_prompt_tokens, const ServedModel& model);

/// NOT_FOUND unless `name` is empty or the served model's.
absl::Status CheckModelName(const std::string& name, const ServedModel& model);

}  // namespace moed
