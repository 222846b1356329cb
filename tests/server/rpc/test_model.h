#pragma once

#include <memory>

#include "server/rpc/served_model.h"
#include "server/tokenizer/tokenizer.h"

namespace moed {

/// A model of 300 ids: 0 is "<eos>", then one token for each byte. Nothing needs its weights.
ServedModel TestModel();

/// Its tokenizer: every byte is a token, without merges.
std::unique_ptr<Tokenizer> TestTokenizer();

}  // namespace moed
