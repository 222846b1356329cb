#include "server/tokenizer/decode_steps.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "server/tokenizer/byte_level.h"
#include "server/tokenizer/unicode.h"

namespace moed {
namespace {

/// The byte that a token like <0x0A> stands for.
std::optional<char> FallbackByte(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  uint8_t byte = 0;
  const auto [end, error] = std::from_chars(&token[3], &token[5], byte, 16);
  if (error != std::errc() || end != &token[5]) return std::nullopt;
  return static_cast<char>(byte);
}

/// Drops up to `max` times `c` from the front of `text`; returns how many.
size_t StripFront(char32_t c, size_t max, std::string_view& text) {
  size_t count = 0;
  for (size_t pos = 0; count < max && pos < text.size(); ++count) {
    const char32_t next = unicode::NextCodePoint(text, pos);
    if (next != c) break;
    text.remove_prefix(std::exchange(pos, 0));
  }
  return count;
}

size_t StripBack(char32_t c, size_t max, std::string_view& text) {
  size_t count = 0;
  for (; count < max && !text.empty(); ++count) {
    size_t pos = text.size();
    if (unicode::PreviousCodePoint(text, pos) != c) break;
    text = text.substr(0, pos);
  }
  return count;
}

}  // namespace

std::unique_ptr<DecodeStep> ByteLevelDecode::Fresh() const {
  return std::make_unique<ByteLevelDecode>();
}

void ByteLevelDecode::Push(std::string_view token, Sink sink) {
  byte_level::AppendBytes(token, pending_);
  std::string text;
  pending_.erase(0, unicode::AppendLossyPrefix(pending_, text));
  sink(text);
}

void ByteLevelDecode::Finish(Sink sink) {
  std::string text;
  unicode::AppendLossy(pending_, text);
  sink(text);
}

std::string ByteLevelDecode::TokenBytes(std::string token) const {
  std::string bytes;
  byte_level::AppendBytes(token, bytes);
  return bytes;
}

std::unique_ptr<DecodeStep> ByteFallbackDecode::Fresh() const {
  return std::make_unique<ByteFallbackDecode>();
}

void ByteFallbackDecode::Push(std::string_view token, Sink sink) {
  if (const std::optional<char> byte = FallbackByte(token)) {
    run_.push_back(*byte);
    return;
  }
  Finish(sink);
  sink(token);
}

void ByteFallbackDecode::Finish(Sink sink) {
  if (run_.empty()) return;
  if (unicode::IsValidUtf8(run_)) {
    sink(run_);
  } else {
    for (size_t i = 0; i < run_.size(); ++i) sink(unicode::kReplacementCharacter);
  }
  run_.clear();
}

std::string ByteFallbackDecode::TokenBytes(std::string token) const {
  const std::optional<char> byte = FallbackByte(token);
  return byte ? std::string(1, *byte) : token;
}

ReplaceDecode::ReplaceDecode(std::shared_ptr<const Regex> pattern, std::string content)
    : pattern_(std::move(pattern)), content_(std::move(content)) {}

std::unique_ptr<DecodeStep> ReplaceDecode::Fresh() const {
  return std::make_unique<ReplaceDecode>(pattern_, content_);
}

void ReplaceDecode::Push(std::string_view token, Sink sink) {
  sink(TokenBytes(std::string(token)));
}

void ReplaceDecode::Finish(Sink) {}

std::string ReplaceDecode::TokenBytes(std::string token) const {
  std::string replaced;
  size_t copied = 0;
  const auto on_match = [&](size_t begin, size_t end) {
    replaced.append(token, copied, begin - copied);
    replaced += content_;
    copied = end;
  };
  // A token on which the pattern takes too long stays as it is.
  if (!RegexSearch(*pattern_).ForEachMatch(token, on_match).ok()) return token;
  return replaced.append(token, copied);
}

MetaspaceDecode::MetaspaceDecode(char32_t replacement, FirstToken first_token)
    : replacement_(replacement), first_token_(first_token) {}

std::unique_ptr<DecodeStep> MetaspaceDecode::Fresh() const {
  return std::make_unique<MetaspaceDecode>(replacement_, first_token_);
}

void MetaspaceDecode::Push(std::string_view token, Sink sink) {
  const bool without_spaces = is_first_ && first_token_ == FirstToken::kWithoutSpaces;
  is_first_ = false;
  sink(Replace(token, without_spaces ? "" : " "));
}

void MetaspaceDecode::Finish(Sink) {}

std::string MetaspaceDecode::TokenBytes(std::string token) const { return Replace(token, " "); }

std::string MetaspaceDecode::Replace(std::string_view token, std::string_view by) const {
  std::string replaced;
  for (size_t pos = 0; pos < token.size();) {
    const size_t begin = pos;
    const bool matches = unicode::NextCodePoint(token, pos) == replacement_;
    replaced += matches ? by : token.substr(begin, pos - begin);
  }
  return replaced;
}

StripTokenDecode::StripTokenDecode(StripRule rule) : rule_(rule) {}

std::unique_ptr<DecodeStep> StripTokenDecode::Fresh() const {
  return std::make_unique<StripTokenDecode>(rule_);
}

void StripTokenDecode::Push(std::string_view token, Sink sink) {
  StripFront(rule_.content, rule_.start, token);
  StripBack(rule_.content, rule_.stop, token);
  sink(token);
}

void StripTokenDecode::Finish(Sink) {}

StripTextDecode::StripTextDecode(StripRule rule) : rule_(rule), start_left_(rule.start) {}

std::unique_ptr<DecodeStep> StripTextDecode::Fresh() const {
  return std::make_unique<StripTextDecode>(rule_);
}

void StripTextDecode::Push(std::string_view text, Sink sink) {
  if (text.empty()) return;
  start_left_ -= StripFront(rule_.content, start_left_, text);
  if (text.empty()) return;
  start_left_ = 0;
  // What was held is stripped only if it and the end of this text are one run at the end.
  std::string all;
  for (size_t i = 0; i < num_held_; ++i) unicode::AppendCodePoint(rule_.content, all);
  all += text;
  std::string_view kept = all;
  num_held_ = StripBack(rule_.content, rule_.stop, kept);
  sink(kept);
}

void StripTextDecode::Finish(Sink) {}

std::unique_ptr<DecodeStep> JoinWithSpacesDecode::Fresh() const {
  return std::make_unique<JoinWithSpacesDecode>();
}

void JoinWithSpacesDecode::Push(std::string_view token, Sink sink) {
  if (!is_first_) sink(" ");
  is_first_ = false;
  sink(token);
}

void JoinWithSpacesDecode::Finish(Sink) {}

}  // namespace moed
