#include "server/tokenizer/decoder.h"

#include <utility>

#include "absl/status/status.h"
#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"
#include "server/tokenizer/decode_steps.h"
#include "server/tokenizer/text_pattern.h"

namespace moed {
namespace {

constexpr int kMaxNesting = 8;
constexpr int64_t kMaxStripped = 1024;

/// Adds the steps that the components of one file ask for. Lives while the file is read.
class StepBuilder {
 public:
  explicit StepBuilder(std::vector<std::unique_ptr<DecodeStep>>& steps) : steps_(steps) {}

  absl::Status Add(const JsonReader& component, int depth) {
    const std::string type = component.String("type");
    MOED_RETURN_IF_ERROR(component.status());
    if (type == "Sequence") return AddSequence(component, depth);
    if (type == "Fuse") {
      joined_ = true;
      return absl::OkStatus();
    }
    if (type == "Strip") return AddStrip(component);
    if (joined_) {
      return absl::UnimplementedError(
          Concat({"reading tokenizer.json: decoder ", type, " after one that joins the tokens"}));
    }
    if (type == "ByteLevel") {
      joined_ = true;
      return AddStep(std::make_unique<ByteLevelDecode>());
    }
    if (type == "ByteFallback") return AddStep(std::make_unique<ByteFallbackDecode>());
    if (type == "Replace") return AddReplace(component);
    if (type == "Metaspace") return AddMetaspace(component);
    return absl::UnimplementedError(
        Concat({"reading tokenizer.json: decoder ", type, " is not supported"}));
  }

 private:
  absl::Status AddStep(std::unique_ptr<DecodeStep> step) {
    steps_.push_back(std::move(step));
    return absl::OkStatus();
  }

  absl::Status AddSequence(const JsonReader& component, int depth) {
    if (depth > kMaxNesting) return absl::InvalidArgumentError("decoders nest too deep");
    for (const JsonReader& child : component.ObjectList("decoders")) {
      MOED_RETURN_IF_ERROR(Add(child, depth + 1));
    }
    return component.status();
  }

  absl::Status AddStrip(const JsonReader& component) {
    MOED_ASSIGN_OR_RETURN(const char32_t content, ReadCharacter(component, "content"));
    const StripRule rule{.content = content,
                         .start = static_cast<size_t>(component.Int("start", {0, kMaxStripped})),
                         .stop = static_cast<size_t>(component.Int("stop", {0, kMaxStripped}))};
    MOED_RETURN_IF_ERROR(component.status());
    if (joined_) return AddStep(std::make_unique<StripTextDecode>(rule));
    return AddStep(std::make_unique<StripTokenDecode>(rule));
  }

  absl::Status AddReplace(const JsonReader& component) {
    MOED_ASSIGN_OR_RETURN(std::shared_ptr<const Regex> pattern, ReadPattern(component));
    std::string content = component.String("content");
    MOED_RETURN_IF_ERROR(component.status());
    return AddStep(std::make_unique<ReplaceDecode>(std::move(pattern), std::move(content)));
  }

  absl::Status AddMetaspace(const JsonReader& component) {
    MOED_ASSIGN_OR_RETURN(const char32_t replacement, ReadCharacter(component, "replacement"));
    const bool old_prefix = component.BoolOr("add_prefix_space", true);
    const std::string scheme =
        component.StringOr("prepend_scheme", old_prefix ? "always" : "never");
    MOED_RETURN_IF_ERROR(component.status());
    const auto first_token = scheme == "never" ? MetaspaceDecode::FirstToken::kLikeOthers
                                               : MetaspaceDecode::FirstToken::kWithoutSpaces;
    return AddStep(std::make_unique<MetaspaceDecode>(replacement, first_token));
  }

  std::vector<std::unique_ptr<DecodeStep>>& steps_;
  bool joined_ = false;  // from here on the text is one, and not tokens
};

}  // namespace

DecodeStream::DecodeStream(std::vector<std::unique_ptr<DecodeStep>> steps)
    : steps_(std::move(steps)) {}

void DecodeStream::Push(std::string_view token, std::string& out) { Run(0, token, out); }

void DecodeStream::Finish(std::string& out) {
  for (size_t i = 0; i < steps_.size(); ++i) {
    steps_[i]->Finish([&](std::string_view token) { Run(i + 1, token, out); });
  }
}

void DecodeStream::Run(size_t step, std::string_view token, std::string& out) {
  if (step == steps_.size()) {
    out += token;
    return;
  }
  steps_[step]->Push(token, [&](std::string_view next) { Run(step + 1, next, out); });
}

absl::StatusOr<Decoder> Decoder::Create(const JsonReader* component) {
  Decoder decoder;
  if (component) {
    MOED_RETURN_IF_ERROR(StepBuilder(decoder.steps_).Add(*component, 0));
  } else {
    decoder.steps_.push_back(std::make_unique<JoinWithSpacesDecode>());
  }
  return decoder;
}

std::unique_ptr<DecodeStream> Decoder::Start() const {
  std::vector<std::unique_ptr<DecodeStep>> steps;
  for (const auto& step : steps_) steps.push_back(step->Fresh());
  return std::make_unique<DecodeStream>(std::move(steps));
}

std::string Decoder::TokenBytes(std::string_view token) const {
  std::string bytes(token);
  for (const auto& step : steps_) bytes = step->TokenBytes(std::move(bytes));
  return bytes;
}

}  // namespace moed
