#pragma once

#include <cstdint>
#include <optional>

namespace moed::load {

/// Finds the highest level of load that meets a condition, which lower levels meet and higher ones
/// do not: doubles or halves until it has both, then bisects between them.
///
/// A value of the command.
class RateSearch {
 public:
  struct Params {
    double start = 1;
    double tolerance = 0.05;  // the ratio of the two levels found is within 1 + tolerance
    int max_trials = 16;
    bool whole_numbers = false;  // levels are counts
  };

  explicit RateSearch(const Params& params) : params_(params), next_(params.start) {}

  /// The level to try; nothing when the search is over.
  std::optional<double> Next() const;

  enum class Trial : uint8_t { kMet, kMissed };

  /// What became of the level that Next gave.
  void Report(Trial trial);

  /// The highest level that met the condition.
  std::optional<double> best() const { return best_; }

 private:
  bool IsOver() const;

  const Params params_;
  double next_;
  int num_trials_ = 0;
  std::optional<double> best_;
  std::optional<double> worst_;  // the lowest level that did not meet it
};

}  // namespace moed::load
