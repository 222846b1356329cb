#include "tests/quality/dtype_quality.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"
#include "config/model_config.h"
#include "engine/runtime/parse_dtype.h"
#include "server/tokenizer/tokenizer.h"
#include "tests/fakes/bare_model.h"

namespace moed {
namespace {

constexpr int32_t kWindow = 256;  // tokens that are foretold together

/// The model in one dtype, and the sums over what it has foretold.
struct Candidate {
  std::string dtype;
  std::unique_ptr<BareModel> model;
  double loss = 0;
  double absolute_error = 0;
  double squared_error = 0;
  double max_error = 0;
  int64_t num_same_top = 0;
};

/// Sums over the logits of the first dtype.
struct Totals {
  int64_t num_tokens = 0;
  double squared_deviation = 0;  // of logits from the mean of their row
};

absl::StatusOr<Candidate> MakeCandidate(const QualityOptions& options, const ModelConfig& config,
                                        const std::string& name) {
  MOED_ASSIGN_OR_RETURN(const EngineDType dtype, ParseEngineDType(name));
  BareModelOptions model;
  model.config = config;
  model.loader = {.model_dir = options.model_dir, .weight_format = dtype.weights};
  model.backend = {.activation_dtype = dtype.activation,
                   .num_threads = options.num_threads,
                   .instruction_set = options.instruction_set};
  model.max_tokens = kWindow;
  Candidate candidate{.dtype = name};
  MOED_ASSIGN_OR_RETURN(candidate.model, BareModel::Create(model));
  return candidate;
}

/// The negative log likelihood of `token` under a row of logits.
double LossOf(std::span<const float> logits, int32_t token) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  return std::log(sum) + max - logits[token];
}

double SquaredDeviation(std::span<const float> row) {
  double sum = 0, squares = 0;
  for (const double logit : row) {
    sum += logit;
    squares += logit * logit;
  }
  return squares - sum * sum / static_cast<double>(row.size());
}

ptrdiff_t Top(std::span<const float> row) {
  return std::max_element(row.begin(), row.end()) - row.begin();
}

void AddErrors(std::span<const float> row, std::span<const float> reference, Candidate& candidate) {
  for (size_t i = 0; i < row.size(); ++i) {
    const double error = std::abs(static_cast<double>(row[i]) - reference[i]);
    candidate.absolute_error += error;
    candidate.squared_error += error * error;
    candidate.max_error = std::max(candidate.max_error, error);
  }
  candidate.num_same_top += Top(row) == Top(reference);
}

/// Foretells window[1], window[2], ... with every candidate.
absl::Status AddWindow(std::span<const int32_t> window, std::vector<Candidate>& candidates,
                       Totals& totals) {
  const size_t num_rows = window.size() - 1;
  std::vector<float> reference;
  for (Candidate& candidate : candidates) {
    MOED_ASSIGN_OR_RETURN(std::vector<float> logits,
                          candidate.model->Logits(window.first(num_rows), 0));
    if (reference.empty()) reference = logits;
    const size_t vocab = logits.size() / num_rows;
    for (size_t r = 0; r < num_rows; ++r) {
      const auto row = std::span<const float>(logits).subspan(r * vocab, vocab);
      candidate.loss += LossOf(row, window[r + 1]);
      AddErrors(row, std::span<const float>(reference).subspan(r * vocab, vocab), candidate);
    }
  }
  const size_t vocab = reference.size() / num_rows;
  for (size_t r = 0; r < num_rows; ++r) {
    totals.squared_deviation +=
        SquaredDeviation(std::span<const float>(reference).subspan(r * vocab, vocab));
  }
  totals.num_tokens += static_cast<int64_t>(num_rows);
  return absl::OkStatus();
}

DTypeQuality QualityOf(const Candidate& candidate, const Totals& totals) {
  const auto num_tokens = static_cast<double>(totals.num_tokens);
  const double num_logits = num_tokens * static_cast<double>(candidate.model->vocab_size());
  const double loss = candidate.loss / num_tokens;
  return {.dtype = candidate.dtype,
          .weight_bytes = candidate.model->weight_bytes(),
          .num_tokens = totals.num_tokens,
          .loss = loss,
          .perplexity = std::exp(loss),
          .mean_logit_error = candidate.absolute_error / num_logits,
          .max_logit_error = candidate.max_error,
          .relative_logit_error = std::sqrt(candidate.squared_error / totals.squared_deviation),
          .same_top_token = static_cast<double>(candidate.num_same_top) / num_tokens};
}

absl::Status CheckOptions(const QualityOptions& options, const ModelConfig& config,
                          std::span<const int32_t> ids) {
  if (options.dtypes.empty() || ids.size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrFormat("measuring quality: %d dtypes and %d tokens, expected at least 1 and 2",
                        options.dtypes.size(), ids.size()));
  }
  if (config.max_positions >= kWindow) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("measuring quality: the model has %d positions, expected at least %d",
                      config.max_positions, kWindow));
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> EncodeDocuments(const std::string& model_dir,
                                                     std::string_view text) {
  MOED_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(model_dir));
  MOED_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::Load(model_dir));
  std::vector<int32_t> ids;
  while (text.ends_with('\n')) text.remove_suffix(1);
  const std::string documents(text);
  for (const absl::string_view document : absl::StrSplit(documents, "\n\n", absl::SkipEmpty())) {
    MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> part,
                          tokenizer->Encode(std::string(document), {.add_special_tokens = false}));
    if (config.bos_token_id) ids.push_back(*config.bos_token_id);
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

absl::StatusOr<std::vector<DTypeQuality>> MeasureQuality(const QualityOptions& options,
                                                         std::span<const int32_t> ids) {
  MOED_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options.model_dir));
  MOED_RETURN_IF_ERROR(CheckOptions(options, config, ids));
  std::vector<Candidate> candidates;
  for (const std::string& dtype : options.dtypes) {
    MOED_ASSIGN_OR_RETURN(Candidate candidate, MakeCandidate(options, config, dtype));
    candidates.push_back(std::move(candidate));
  }
  Totals totals;
  for (size_t begin = 0; begin + 1 < ids.size(); begin += kWindow) {
    const size_t size = std::min<size_t>(kWindow + 1, ids.size() - begin);
    MOED_RETURN_IF_ERROR(AddWindow(ids.subspan(begin, size), candidates, totals));
  }
  std::vector<DTypeQuality> qualities;
  for (const Candidate& candidate : candidates) {
    qualities.push_back(QualityOf(candidate, totals));
    DTypeQuality& quality = qualities.back();
    quality.perplexity_change = quality.perplexity / qualities.front().perplexity - 1;
  }
  return qualities;
}

std::string QualityTable(std::span<const DTypeQuality> qualities) {
  std::string out =
      absl::StrFormat("%-6s %10s %8s %11s %9s %11s %10s %9s %9s\n", "dtype", "weights", "loss",
                      "perplexity", "change", "mean error", "max error", "relative", "same top");
  for (const DTypeQuality& q : qualities) {
    absl::StrAppendFormat(&out,
                          "%-6s %6.2f MiB %8.4f %11.3f %+8.3f%% %11.4f %10.3f %8.2f%% %8.1f%%\n",
                          q.dtype, static_cast<double>(q.weight_bytes) / (1 << 20), q.loss,
                          q.perplexity, 100 * q.perplexity_change, q.mean_logit_error,
                          q.max_logit_error, 100 * q.relative_logit_error, 100 * q.same_top_token);
  }
  return out;
}

}  // namespace moed
