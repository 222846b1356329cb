#include "client/load/prompt_factory.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/load/prompts/prompt_file.h"
#include "client/load/prompts/skewed_prompts.h"
#include "client/load/server/expert_probe.h"
#include "client/rpc_error.h"
#include "config/base/status_macros.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed::load {

extern const char kSonnets[];

namespace {

constexpr std::chrono::seconds kTimeout(30);
constexpr size_t kMaxConversations = 20'000;  // of a file: each is tokenized
constexpr int kMaxDrifts = 8;

absl::StatusOr<std::vector<int32_t>> Tokenize(const Connection& connection,
                                              const std::string& text) {
  grpc::ClientContext context;
  connection.Authorize(context);
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  v1::TokenizeRequest request;
  request.set_text(text);
  request.set_add_special_tokens(false);
  v1::TokenizeResponse response;
  const auto stub = v1::InferenceService::NewStub(connection.channel());
  const grpc::Status status = stub->Tokenize(&context, request, &response);
  if (!status.ok()) {
    return absl::UnavailableError(absl::StrCat("tokenizing prompts: ", FormatRpcError(status)));
  }
  return std::vector<int32_t>(response.token_ids().begin(), response.token_ids().end());
}

}  // namespace

absl::StatusOr<std::unique_ptr<PromptFactory>> PromptFactory::Create(const Params& params) {
  std::unique_ptr<PromptFactory> factory(new PromptFactory(params.flags, params.spec));
  factory->tokens_.vocab_size = std::max(1, params.model.vocab_size());
  factory->tokens_.excluded = {params.model.eos_token_ids().begin(),
                               params.model.eos_token_ids().end()};
  if (params.model.has_bos_token_id()) {
    factory->tokens_.excluded.push_back(params.model.bos_token_id());
  }
  if (params.flags.expert_balancedness > 0) {
    MOED_RETURN_IF_ERROR(factory->MeasureExperts(params));
  } else if (params.flags.dataset == "sonnet") {
    MOED_RETURN_IF_ERROR(factory->TokenizeSonnets(params));
  } else if (params.flags.dataset != "random") {
    MOED_RETURN_IF_ERROR(factory->ReadFile(params));
  }
  return factory;
}

std::unique_ptr<PromptSource> PromptFactory::Make(int run) const {
  LengthParams lengths = spec_.lengths;
  if (flags_.verify > 0) {
    return std::make_unique<RepeatedPrompts>(MakeSource(lengths), flags_.verify);
  }
  lengths.seed += static_cast<uint64_t>(run) * 1000003;
  return MakeSource(lengths);
}

std::unique_ptr<PromptSource> PromptFactory::MakeSource(const LengthParams& lengths) const {
  if (spec_.kind == LoadSpec::Kind::kTrace) {
    return std::make_unique<TracePrompts>(tokens_, spec_.trace.requests, lengths.seed);
  }
  if (!mixes_.empty()) {
    return std::make_unique<SkewedPrompts>(
        SkewedPrompts::Params{.topics = topics_,
                              .mixes = mixes_,
                              .drift_seconds = flags_.expert_drift_s,
                              .lengths = lengths});
  }
  if (!text_lines_.empty()) return std::make_unique<TextPrompts>(text_lines_, lengths);
  if (!pool_.empty()) return std::make_unique<PooledPrompts>(pool_, lengths);
  RandomPrompts::Params params;
  params.tokens = tokens_;
  params.lengths = lengths;
  params.num_families = flags_.prefix_families;
  params.prefix_tokens = flags_.prefix_len;
  params.family_skew = flags_.prefix_skew;
  return std::make_unique<RandomPrompts>(std::move(params));
}

absl::Status PromptFactory::ReadFile(const Params& params) {
  std::ifstream in(flags_.dataset_path, std::ios::binary);
  if (!in) {
    return absl::NotFoundError(
        absl::StrCat("--dataset-path: reading ", flags_.dataset_path, ": ", std::strerror(errno)));
  }
  return flags_.dataset == "sharegpt" ? ReadShareGptFile(params, in) : ReadJsonLines(params, in);
}

// Answers are tokenized for their lengths; questions too when conversations need token ids.
absl::Status PromptFactory::ReadShareGptFile(const Params& params, std::istream& in) {
  MOED_ASSIGN_OR_RETURN(std::vector<ShareGptConversation> conversations,
                        ReadShareGpt(in, flags_.dataset_path));
  if (conversations.size() > kMaxConversations) conversations.resize(kMaxConversations);
  const bool needs_ids = flags_.turns != "1";
  size_t wanted = conversations.size();
  if (flags_.num_prompts > 0) wanted = std::min(wanted, static_cast<size_t>(flags_.num_prompts));
  for (const ShareGptConversation& conversation : conversations) {
    if (pool_.size() == wanted) break;
    PooledPrompts::Conversation turns;
    for (const ShareGptTurn& turn : conversation) {
      if (params.is_stopped()) return absl::CancelledError("interrupted");
      PooledPrompts::Turn& out = turns.emplace_back();
      out.text = turn.prompt;
      MOED_ASSIGN_OR_RETURN(const auto answer, Tokenize(params.connection, turn.answer));
      out.output_tokens = std::max<int64_t>(1, std::ssize(answer));
      if (!needs_ids) break;
      MOED_ASSIGN_OR_RETURN(out.token_ids, Tokenize(params.connection, turn.prompt));
    }
    pool_.push_back(std::move(turns));
  }
  return absl::OkStatus();
}

absl::Status PromptFactory::ReadJsonLines(const Params& params, std::istream& in) {
  MOED_ASSIGN_OR_RETURN(std::vector<FilePrompt> prompts, ReadPromptLines(in, flags_.dataset_path));
  const bool needs_ids = flags_.turns != "1";
  for (FilePrompt& prompt : prompts) {
    if (needs_ids && prompt.token_ids.empty()) {
      if (params.is_stopped()) return absl::CancelledError("interrupted");
      MOED_ASSIGN_OR_RETURN(prompt.token_ids, Tokenize(params.connection, prompt.text));
    }
    PooledPrompts::Turn turn;
    turn.text = std::move(prompt.text);
    turn.token_ids = std::move(prompt.token_ids);
    turn.output_tokens = prompt.output_tokens;
    pool_.push_back({std::move(turn)});
  }
  return absl::OkStatus();
}

absl::Status PromptFactory::TokenizeSonnets(const Params& params) {
  for (const absl::string_view line : absl::StrSplit(kSonnets, '\n', absl::SkipEmpty())) {
    MOED_ASSIGN_OR_RETURN(std::vector<int32_t> ids,
                          Tokenize(params.connection, absl::StrCat(line, "\n")));
    text_lines_.push_back(std::move(ids));
  }
  return absl::OkStatus();
}

absl::Status PromptFactory::MeasureExperts(const Params& params) {
  topics_ = MakeTopics(tokens_, flags_.expert_topics, flags_.seed);
  int64_t num_tokens = std::llround(spec_.lengths.input.Mean());
  if (params.model.max_model_len() > 1) {
    num_tokens = std::min<int64_t>(num_tokens, params.model.max_model_len() - 1);
  }
  MOED_ASSIGN_OR_RETURN(const ProbedLoads probed,
                        ProbeTopics({.connection = params.connection,
                                     .admin = params.admin,
                                     .topics = topics_,
                                     .num_tokens = std::max<int64_t>(1, num_tokens),
                                     .is_stopped = params.is_stopped}));
  const int count = flags_.expert_drift_s > 0 ? kMaxDrifts : 1;
  skew_ = ExpertSkew{.target = flags_.expert_balancedness, .groups = probed.kind};
  for (const std::vector<int>& hot : HotGroups(probed.loads, count, probed.kind)) {
    Tilt tilt = TiltTowards(probed.loads, hot, flags_.expert_balancedness);
    if (mixes_.empty()) skew_->predicted = tilt.balancedness;
    mixes_.push_back(std::move(tilt.weights));
  }
  if (mixes_.empty()) {
    return absl::FailedPreconditionError(
        "--expert-balancedness: the server's model has no experts");
  }
  return absl::OkStatus();
}

}  // namespace moed::load
