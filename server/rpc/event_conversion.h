#pragma once

#include <cstdint>
#include <string>

#include "moed/v1/inference.pb.h"
#include "server/request/request.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// Which of a token's facts the client asked for.
struct EventFormat {
  bool return_token_ids = false;
  bool return_logprobs = false;
};

/// Sums over steps as the protocol carries them. Pure.
void FillStepSeconds(const StepTotals& totals, v1::StepSeconds& out);

/// The first message of every stream.
v1::GenerateResponse AcceptedMessage(const Request& request);

/// The message of one event. `tokenizer` gives the bytes of tokens that carry logprobs. Pure.
v1::GenerateResponse ToMessage(const RequestEvent& event, const EventFormat& format,
                               const Tokenizer& tokenizer);

}  // namespace moed
