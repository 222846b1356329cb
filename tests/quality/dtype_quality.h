#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

/// What to measure.
struct QualityOptions {
  std::string model_dir;
  std::vector<std::string> dtypes;  // values of --dtype; the first is what the others are held to
  std::string instruction_set;      // "" = the best of this machine
  int32_t num_threads = 1;
};

/// How well a model in one dtype foretells a text.
struct DTypeQuality {
  std::string dtype;
  int64_t weight_bytes = 0;
  int64_t num_tokens = 0;           // that were foretold
  double loss = 0;                  // mean negative log likelihood of a token, nats
  double perplexity = 0;            // exp(loss)
  double perplexity_change = 0;     // relative to the first dtype: 0.01 is one percent worse
  double mean_logit_error = 0;      // mean |difference to the first dtype's logit|
  double max_logit_error = 0;       // the largest
  double relative_logit_error = 0;  // rms difference / standard deviation of the first's logits
  double same_top_token = 0;        // share of positions at which both rank the same token first
};

/// The ids of a text of documents with empty lines between them, each document after a
/// begin-of-sequence token if the model has one: as the demo model was trained.
absl::StatusOr<std::vector<int32_t>> EncodeDocuments(const std::string& model_dir,
                                                     std::string_view text);

/// Cuts `ids` into windows of 256 tokens and foretells in each every token but the first of all,
/// from those before it in its window, with the engine's model, kernels and weights. One entry for
/// each dtype, in order.
absl::StatusOr<std::vector<DTypeQuality>> MeasureQuality(const QualityOptions& options,
                                                         std::span<const int32_t> ids);

/// As a table with one line for each dtype.
std::string QualityTable(std::span<const DTypeQuality> qualities);

}  // namespace moed
