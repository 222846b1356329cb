#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moed::load {

struct CompareOptions {
  double alpha = 0.05;       // of all figures together
  double min_change = 0.02;  // smaller changes do not matter, however certain they are
};

enum class Verdict : uint8_t { kUnchanged, kBetter, kWorse, kUnknown };

/// One figure of two results.
struct FigureChange {
  std::string name;
  double before = 0;
  double after = 0;
  double change = 0;  // relative
  double p = 1;       // adjusted for the number of figures
  Verdict verdict = Verdict::kUnchanged;
};

struct Comparison {
  std::vector<FigureChange> figures;
  std::vector<std::string> warnings;  // e.g. a run that is not valid

  bool HasWorse() const;
};

/// What differs between two results of moed-load: Welch's test on the figures of their repeated
/// runs, or of the stretches of single runs, adjusted by Holm's method. INVALID_ARGUMENT, when one
/// of them is no result.
absl::StatusOr<Comparison> Compare(const nlohmann::json& before, const nlohmann::json& after,
                                   const CompareOptions& options);

/// A table, one line a figure, and the warnings.
std::string FormatComparison(const Comparison& comparison);

nlohmann::ordered_json ToJson(const Comparison& comparison);

}  // namespace moed::load
