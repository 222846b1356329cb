#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moed::load {

struct SampleMoments {
  int64_t count = 0;
  double mean = 0;
  double variance = 0;  // unbiased; 0 for fewer than two samples
};

SampleMoments MomentsOf(std::span<const double> samples);

/// P(|T| >= |t|) for Student's t with `degrees` (> 0) degrees of freedom.
double TwoSidedP(double t, double degrees);

/// The t that |T| exceeds with probability `p` in (0, 1).
double TwoSidedQuantile(double p, double degrees);

/// Half the width of the 95 % confidence interval of the mean; 0 for fewer than two samples.
double ConfidenceHalfWidth(const SampleMoments& moments);

/// Welch's test: the probability of a difference of means as large as this one if there is none. 1
/// when either side has fewer than two samples; for no variance at all: 1 if equal, else 0.
double WelchP(const SampleMoments& a, const SampleMoments& b);

/// The p-values adjusted for there being several of them, by Holm's method; in the given order.
std::vector<double> HolmAdjusted(std::span<const double> p_values);

}  // namespace moed::load
