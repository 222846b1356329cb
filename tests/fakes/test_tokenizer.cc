#include "tests/fakes/test_tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/check.h"

namespace moed {

std::unique_ptr<Tokenizer> MakeTestTokenizer(const std::vector<std::string>& pieces) {
  auto vocab = nlohmann::json::object();
  auto added = nlohmann::json::array();
  for (size_t id = 0; id < pieces.size(); ++id) {
    const std::string& piece = pieces[id];
    vocab[piece] = id;
    const bool is_special = piece.starts_with("<") && !piece.starts_with("<0x");
    if (!is_special) continue;
    added.push_back({{"id", id},
                     {"content", piece},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const nlohmann::json steps = {{{"type", "ByteFallback"}}, {{"type", "Fuse"}}};
  const nlohmann::json file = {{"version", "1.0"},
                               {"added_tokens", added},
                               {"normalizer", nullptr},
                               {"pre_tokenizer", nullptr},
                               {"post_processor", nullptr},
                               {"decoder", {{"type", "Sequence"}, {"decoders", steps}}},
                               {"model",
                                {{"type", "BPE"},
                                 {"byte_fallback", true},
                                 {"vocab", vocab},
                                 {"merges", nlohmann::json::array()}}}};
  auto tokenizer = Tokenizer::FromJson(file.dump(), "");
  MOED_CHECK(tokenizer.ok());
  return *std::move(tokenizer);
}

std::unique_ptr<Tokenizer> MakeWordTokenizer(int size) {
  std::vector<std::string> pieces;
  for (int i = 0; i + 1 < size; ++i) pieces.push_back(absl::StrCat("w", i, " "));
  pieces.emplace_back("<eos>");
  return MakeTestTokenizer(pieces);
}

}  // namespace moed
