#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "config/json_reader.h"

namespace moed {

/// One step of decoding at work on one text: takes tokens (or text) in order and passes on what no
/// later token can change. Used by one thread at a time.
class DecodeStep {
 public:
  using Sink = absl::FunctionRef<void(std::string_view)>;

  virtual ~DecodeStep() = default;

  /// The same step at the beginning of a text.
  virtual std::unique_ptr<DecodeStep> Fresh() const = 0;

  virtual void Push(std::string_view token, Sink sink) = 0;

  /// The text ends: passes on what was held back.
  virtual void Finish(Sink sink) = 0;

  /// What this step makes of the bytes of one token, apart from rules about its place.
  virtual std::string TokenBytes(std::string token) const { return token; }
};

/// Turns the tokens of one text into the text, token by token. Made by a Decoder, which it may
/// outlive; used by one thread at a time.
class DecodeStream {
 public:
  explicit DecodeStream(std::vector<std::unique_ptr<DecodeStep>> steps);

  /// Appends to `out` the text that is certain once `token` has come.
  void Push(std::string_view token, std::string& out);

  /// Ends the text.
  void Finish(std::string& out);

 private:
  void Run(size_t step, std::string_view token, std::string& out);

  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

/// How tokens become text again. Owned by the Tokenizer; immutable.
class Decoder {
 public:
  /// From the "decoder" of tokenizer.json; nullptr when there is none: then tokens are joined with
  /// spaces. kUnimplemented, by name, for a type not known, or one that cannot follow another.
  static absl::StatusOr<Decoder> Create(const JsonReader* component);

  std::unique_ptr<DecodeStream> Start() const;

  /// The bytes that `token` stands for.
  std::string TokenBytes(std::string_view token) const;

 private:
  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

}  // namespace moed
