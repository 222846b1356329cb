#include "server/tokenizer/stream_decoder.h"

#include "server/tokenizer/decoder.h"
#include "server/tokenizer/tokenizer_parts.h"

namespace moed {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options)
    : parts_(tokenizer.parts_.get()), options_(options), stream_(parts_->decoder.Start()) {}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, const DecodeOptions& options,
                             std::span<const int32_t> context)
    : StreamDecoder(tokenizer, options) {
  for (const int32_t id : context) Append(id);
}

StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::Append(int32_t id) {
  std::string text;
  if (options_.skip_special_tokens && parts_->IsSpecial(id)) return text;
  const std::string_view spelling = parts_->DecodedSpelling(id);
  if (!spelling.empty()) stream_->Push(spelling, text);
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text;
  stream_->Finish(text);
  return text;
}

}  // namespace moed
