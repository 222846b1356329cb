#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/tokenizer/tokenizer.h"

namespace moed {

/// A byte-level tokenizer whose token i stands for exactly the bytes of pieces[i], which may be a
/// part of a character; "<...>" is a control token. Pieces must differ. It cannot encode much.
std::unique_ptr<Tokenizer> MakeTestTokenizer(const std::vector<std::string>& pieces);

/// `size` tokens "w0 ", "w1 ", ..., the last of which is the control token "<eos>".
std::unique_ptr<Tokenizer> MakeWordTokenizer(int size);

}  // namespace moed
