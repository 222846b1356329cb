#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moed::testing {

/// The strings of tests/testdata/tokenizer/strings.jsonl; some are not UTF-8.
std::vector<std::string> SampleStrings();

/// What the reference makes of the sample strings with one tokenizer: golden/NAME.json.
struct Golden {
  struct Noise {
    std::vector<int32_t> ids;
    std::string text;       // without special tokens
    std::string full_text;  // with them
  };

  std::vector<std::vector<int32_t>> first_ids;  // of the first strings
  std::vector<uint32_t> ids_hashes;             // of all strings, see HashOf
  std::vector<uint32_t> literal_ids_hashes;     // with special tokens left as text
  std::vector<uint32_t> text_hashes;            // of the decoded ids
  std::vector<Noise> noise;                     // random ids
};
Golden ReadGolden(const std::string& name);

/// FNV-1a over the bytes, or over the ids as little-endian 32-bit numbers.
uint32_t HashOf(std::string_view bytes);
uint32_t HashOf(std::span<const int32_t> ids);

/// Where the tokenizer NAME is: a synthetic one, or a real one next to the checkout; empty when it
/// is not there.
std::string ModelDir(const std::string& name);

}  // namespace moed::testing
