#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moed {

struct TokenizerParts;

/// How text becomes ids.
struct EncodeOptions {
  /// Adds what the post-processor asks for, e.g. the begin-of-sequence token.
  bool add_special_tokens = true;
  /// Turns text such as "<|im_end|>" into the control token. Off for text of users that a chat
  /// template wraps: then it is encoded like any other text. Added tokens that are not special
  /// (e.g. runs of spaces) are found either way.
  bool parse_special_tokens = true;
};

/// How ids become text.
struct DecodeOptions {
  /// Leaves control tokens (special added tokens) out of the text.
  bool skip_special_tokens = true;
};

/// Converts between text and token ids as a Hugging Face tokenizer.json says (BPE models).
/// Owned by the daemon, one per model; immutable after loading, so any number of threads may call
/// it at the same time. It must outlive the StreamDecoders made from it.
class Tokenizer {
 public:
  /// Longest text that Encode takes, in bytes.
  static constexpr size_t kMaxTextBytes = size_t{16} << 20;

  /// Reads MODEL_DIR/tokenizer.json and, when present, MODEL_DIR/tokenizer_config.json. Errors:
  /// kNotFound for a missing tokenizer.json, kInvalidArgument for a malformed file,
  /// kUnimplemented, with its name, for a component or model type that is not known.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);

  /// The same from the texts of the two files; `tokenizer_config_json` may be empty.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(
      std::string_view tokenizer_json, std::string_view tokenizer_config_json);

  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;
  ~Tokenizer();

  /// Ids of `text`. Bytes that are not UTF-8 become U+FFFD first (one per maximal invalid part).
  /// Time grows about linearly with the text, whatever it holds. Errors: kInvalidArgument for a
  /// text above kMaxTextBytes, kResourceExhausted when a pattern of the file needs too long.
  absl::StatusOr<std::vector<int32_t>> Encode(std::string_view text,
                                              const EncodeOptions& options = {}) const;

  /// Text of `ids`, always valid UTF-8. Ids without a token decode to nothing.
  std::string Decode(std::span<const int32_t> ids, const DecodeOptions& options = {}) const;

  /// 1 + the largest id that has a token. Ids between the last token and the model's (padded)
  /// vocabulary have none and must never be sampled.
  int32_t vocab_size() const;

  /// The token as the file spells it (e.g. "Ġthe", "▁the", "<0x0A>"); empty for an id without one.
  std::string_view IdToPiece(int32_t id) const;

  /// The id of a token spelled as in the file.
  std::optional<int32_t> PieceToId(std::string_view piece) const;

  /// The bytes that a token stands for, with no rule about its place in the text applied: "Ġthe"
  /// and "▁the" give " the", "<0x0A>" gives "\n". They need not be UTF-8.
  std::string TokenBytes(int32_t id) const;

  /// Whether `id` is a control token, which Decode skips by default.
  bool IsSpecial(int32_t id) const;

 private:
  friend class StreamDecoder;

  explicit Tokenizer(std::unique_ptr<const TokenizerParts> parts);

  std::unique_ptr<const TokenizerParts> parts_;
};

}  // namespace moed
