#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "client/load/schedule/distribution.h"
#include "client/load/schedule/request_trace.h"

namespace moed::load {

/// What one request says: token ids, or text when there are none.
struct Prompt {
  std::vector<int32_t> token_ids;
  std::string text;
  int64_t max_tokens = 1;
  int32_t id = -1;  // of prompts that come again, to compare their answers
};

/// Which request a prompt is for.
struct PromptRequest {
  int64_t index = 0;    // of the request in the run
  int64_t session = 0;  // of its conversation
  int64_t turn = 0;     // in the conversation; what comes back for a later turn is to be appended
  double seconds = 0;   // when it is to be sent, since the start of the run
};

/// Where prompts come from. The same request always gets the same prompt.
///
/// Owned by the command; any thread may call it.
class PromptSource {
 public:
  virtual ~PromptSource() = default;
  virtual Prompt Make(const PromptRequest& request) const = 0;
};

/// Token ids that a model has and that do not end or begin a text.
struct TokenRange {
  int32_t vocab_size = 1;
  std::vector<int32_t> excluded;  // e.g. eos and bos

  int32_t Draw(Random& random) const;
};

struct LengthParams {
  Distribution input = Distribution::Always(128);
  Distribution output = Distribution::Always(128);
  uint64_t seed = 0;
};

/// Random token ids. With families, each prompt starts with the common prefix of one of them, as
/// requests with a system prompt do; the first family is the most frequent when skewed.
class RandomPrompts final : public PromptSource {
 public:
  struct Params {
    TokenRange tokens;
    LengthParams lengths;       // the input without the prefix
    int64_t num_families = 0;   // 0 = no common prefixes
    int64_t prefix_tokens = 0;  // of each family
    double family_skew = 0;     // Zipf's exponent; 0 = all families alike
  };

  explicit RandomPrompts(Params params);
  Prompt Make(const PromptRequest& request) const override;

 private:
  int64_t DrawFamily(Random& random) const;

  const Params params_;
  std::vector<double> family_bounds_;  // cumulative share
};

/// Prompts of a file, in an order that the seed shuffles, over and over.
class PooledPrompts final : public PromptSource {
 public:
  struct Turn {
    std::string text;
    std::vector<int32_t> token_ids;  // when not empty, these are sent
    int64_t output_tokens = 0;       // 0 = drawn
  };
  using Conversation = std::vector<Turn>;  // not empty

  /// `pool` is not empty.
  PooledPrompts(std::vector<Conversation> pool, LengthParams lengths);
  Prompt Make(const PromptRequest& request) const override;

 private:
  std::vector<Conversation> pool_;
  const LengthParams lengths_;
};

/// Pieces of one long text, each from the start of a random line on, of drawn lengths.
class TextPrompts final : public PromptSource {
 public:
  /// `lines` are the token ids of the text's lines; not all empty.
  TextPrompts(const std::vector<std::vector<int32_t>>& lines, LengthParams lengths);
  Prompt Make(const PromptRequest& request) const override;

 private:
  std::vector<int32_t> token_ids_;
  std::vector<size_t> line_starts_;
  const LengthParams lengths_;
};

/// Requests of a trace: random ids of the recorded lengths; blocks of one hash have the same ids.
class TracePrompts final : public PromptSource {
 public:
  /// `requests` is not empty.
  TracePrompts(TokenRange tokens, std::vector<TraceRequest> requests, uint64_t seed);
  Prompt Make(const PromptRequest& request) const override;

 private:
  const TokenRange tokens_;
  const std::vector<TraceRequest> requests_;
  const uint64_t seed_;
};

/// A few prompts of another source over and over, with their numbers.
class RepeatedPrompts final : public PromptSource {
 public:
  RepeatedPrompts(std::unique_ptr<PromptSource> source, int32_t num_prompts)
      : source_(std::move(source)), num_prompts_(num_prompts) {}
  Prompt Make(const PromptRequest& request) const override;

 private:
  const std::unique_ptr<PromptSource> source_;
  const int32_t num_prompts_;
};

}  // namespace moed::load
