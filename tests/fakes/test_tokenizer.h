#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/tokenizer/tokenizer.h"

namespace moed {

/// A tokenizer whose token i decodes to exactly pieces[i]: "<0xC3>" to that byte, and "<...>" of
/// any other kind is a control token. Pieces must differ. It cannot encode much.
std::unique_ptr<Tokenizer> MakeTestTokenizer(const std::vector<std::string>& pieces);

/// `size` tokens "w0 ", "w1 ", ..., the last of which is the control token "<eos>".
std::unique_ptr<Tokenizer> MakeWordTokenizer(int size);

}  // namespace moed
