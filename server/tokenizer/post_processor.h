#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "config/json_reader.h"
#include "server/tokenizer/vocabulary.h"

namespace moed {

/// The tokens that go around an encoded text, such as a begin-of-sequence token. A value.
struct PostProcessor {
  std::vector<int32_t> before;
  std::vector<int32_t> after;

  /// From the "post_processor" of tokenizer.json (may be absent: nullptr). Where the class that
  /// tokenizer_config.json (may be absent) names builds its own from add_bos_token and
  /// add_eos_token, that one counts. kUnimplemented, by name, for a type not known.
  static absl::StatusOr<PostProcessor> Create(const JsonReader* component,
                                              const JsonReader* tokenizer_config,
                                              const Vocabulary& vocabulary);
};

}  // namespace moed
