#pragma once

#include <optional>
#include <string>

#include "client/text_table.h"
#include "moed/v1/admin.pb.h"
#include "moed/v1/inference.pb.h"

namespace moed {

/// The daemon's state in a few lines, and a table of its ranks.
std::string FormatStatus(const v1::GetStatusResponse& status);

struct ExpertsView {
  std::optional<int>
      layer;  // show this layer's experts, by index in the model; else the sum over layers
  Charset charset = Charset::kAscii;
};

/// Load per rank, balancedness per layer and load per expert, with bars.
std::string FormatExperts(const v1::GetExpertsResponse& experts, const ExpertsView& view);

/// One "name value" line for each property.
std::string FormatModel(const v1::GetModelResponse& model);

/// One line: tokens, times and speed.
std::string FormatUsage(const v1::Usage& usage);

/// A table: the parts of a request's life, and what the steps of each were spent on.
std::string FormatTiming(const v1::Timing& timing);

/// One line for each token: id and its text, quoted and escaped.
std::string FormatPieces(const v1::TokenizeResponse& response);

}  // namespace moed
