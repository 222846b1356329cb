#include "tests/fakes/test_tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/check.h"

namespace moed {
namespace {

// A byte as byte-level vocabularies spell it (GPT-2's bytes_to_unicode): itself when printable,
// else the next free code point from 256 on.
std::string SpellByte(unsigned char byte) {
  const auto is_kept = [](int b) {
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
  };
  int code_point = byte;
  if (!is_kept(byte)) {
    code_point = 256;
    for (int b = 0; b < byte; ++b) code_point += is_kept(b) ? 0 : 1;
  }
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xc0 | (code_point >> 6)),
          static_cast<char>(0x80 | (code_point & 0x3f))};
}

std::string SpellBytes(const std::string& bytes) {
  std::string spelled;
  for (const char c : bytes) spelled += SpellByte(static_cast<unsigned char>(c));
  return spelled;
}

}  // namespace

std::unique_ptr<Tokenizer> MakeTestTokenizer(const std::vector<std::string>& pieces) {
  auto vocab = nlohmann::json::object();
  auto added = nlohmann::json::array();
  for (size_t id = 0; id < pieces.size(); ++id) {
    const std::string& piece = pieces[id];
    const bool is_special = piece.starts_with("<");
    vocab[is_special ? piece : SpellBytes(piece)] = id;
    if (!is_special) continue;
    added.push_back({{"id", id},
                     {"content", piece},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  const nlohmann::json file = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder",
       {{"type", "ByteLevel"},
        {"add_prefix_space", false},
        {"trim_offsets", false},
        {"use_regex", false}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}};
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
