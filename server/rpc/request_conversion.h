#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "moed/v1/inference.pb.h"
#include "server/request/request.h"
#include "server/rpc/served_model.h"

namespace moed {

/// What a Request needs beside the client's message.
struct RequestContext {
  std::string id;
  std::vector<int32_t> prompt_token_ids;
  uint64_t random_seed = 0;  // used when the client sets none
  absl::Time arrival;
  absl::Time deadline;
};

/// The Request of a message that ValidateGenerateRequest found good. Unset sampling fields take the
/// model's defaults; max_tokens and min_tokens are clipped to what fits into the context. Pure.
Request ToRequest(const v1::GenerateRequest& message, const ServedModel& model,
                  RequestContext context);

}  // namespace moed
