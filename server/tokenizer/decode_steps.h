#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "server/tokenizer/decoder.h"
#include "server/tokenizer/regex.h"

namespace moed {

/// ByteLevel: joins the bytes that tokens spell. Bytes that are no character become U+FFFD.
class ByteLevelDecode : public DecodeStep {
 public:
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view token, Sink sink) override;
  void Finish(Sink sink) override;
  std::string TokenBytes(std::string token) const override;

 private:
  std::string pending_;  // at most 3 bytes between calls: the beginning of a character
};

/// ByteFallback: joins runs of tokens like <0x0A>. A run that is not UTF-8 as a whole becomes one
/// U+FFFD per byte, so nothing of it is certain before it ends.
class ByteFallbackDecode : public DecodeStep {
 public:
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view token, Sink sink) override;
  void Finish(Sink sink) override;
  std::string TokenBytes(std::string token) const override;

 private:
  std::string run_;
};

/// Replace, in each token by itself.
class ReplaceDecode : public DecodeStep {
 public:
  ReplaceDecode(std::shared_ptr<const Regex> pattern, std::string content);
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view token, Sink sink) override;
  void Finish(Sink sink) override;
  std::string TokenBytes(std::string token) const override;

 private:
  const std::shared_ptr<const Regex> pattern_;  // shared by the streams of one tokenizer
  const std::string content_;
};

/// Metaspace: the replacement character becomes a space, or nothing in the first token when a
/// space was put before the text.
class MetaspaceDecode : public DecodeStep {
 public:
  enum class FirstToken { kLikeOthers, kWithoutSpaces };

  MetaspaceDecode(char32_t replacement, FirstToken first_token);
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view token, Sink sink) override;
  void Finish(Sink sink) override;
  std::string TokenBytes(std::string token) const override;

 private:
  std::string Replace(std::string_view token, std::string_view by) const;

  const char32_t replacement_;
  const FirstToken first_token_;
  bool is_first_ = true;
};

/// How many of which character Strip removes at the two ends.
struct StripRule {
  char32_t content;
  size_t start;
  size_t stop;
};

/// Strip, of each token by itself.
class StripTokenDecode : public DecodeStep {
 public:
  explicit StripTokenDecode(StripRule rule);
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view token, Sink sink) override;
  void Finish(Sink sink) override;

 private:
  const StripRule rule_;
};

/// Strip, of the whole text (after Fuse or ByteLevel).
class StripTextDecode : public DecodeStep {
 public:
  explicit StripTextDecode(StripRule rule);
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view text, Sink sink) override;
  void Finish(Sink sink) override;

 private:
  const StripRule rule_;
  size_t start_left_;    // how many characters may still be removed at the beginning
  size_t num_held_ = 0;  // characters to strip if the text ends now
};

/// What joins tokens when a tokenizer has no decoder: a space between any two.
class JoinWithSpacesDecode : public DecodeStep {
 public:
  std::unique_ptr<DecodeStep> Fresh() const override;
  void Push(std::string_view token, Sink sink) override;
  void Finish(Sink sink) override;

 private:
  bool is_first_ = true;
};

}  // namespace moed
