#include "client/load/stats/significance.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moed::load {
namespace {

// The continued fraction of the incomplete beta function, by Lentz's method (DLMF 8.17.22).
double BetaFraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  const auto nonzero = [](double v) { return std::abs(v) < kTiny ? kTiny : v; };
  double c = 1;
  double d = 1 / nonzero(1 - (a + b) * x / (a + 1));
  double value = d;
  for (int i = 1; i <= 300; ++i) {
    const double m = i;
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / nonzero(1 + even * d);
    c = nonzero(1 + even / c);
    value *= c * d;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / nonzero(1 + odd * d);
    c = nonzero(1 + odd / c);
    value *= c * d;
    if (std::abs(c * d - 1) < 1e-14) break;
  }
  return value;
}

double RegularizedBeta(double a, double b, double x) {
  if (x <= 0) return 0;
  if (x >= 1) return 1;
  const double log_front =
      std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x);
  if (x < (a + 1) / (a + b + 2)) return std::exp(log_front) * BetaFraction(a, b, x) / a;
  return 1 - std::exp(log_front) * BetaFraction(b, a, 1 - x) / b;
}

}  // namespace

SampleMoments MomentsOf(std::span<const double> samples) {
  SampleMoments moments{.count = static_cast<int64_t>(samples.size())};
  if (samples.empty()) return moments;
  const auto n = static_cast<double>(samples.size());
  moments.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / n;
  for (const double sample : samples) {
    moments.variance += (sample - moments.mean) * (sample - moments.mean);
  }
  moments.variance = samples.size() > 1 ? moments.variance / (n - 1) : 0;
  return moments;
}

double TwoSidedP(double t, double degrees) {
  return RegularizedBeta(degrees / 2, 0.5, degrees / (degrees + t * t));
}

double TwoSidedQuantile(double p, double degrees) {
  double low = 0;
  double high = 1;
  while (TwoSidedP(high, degrees) > p && high < 1e12) high *= 2;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (TwoSidedP(middle, degrees) > p ? low : high) = middle;
  }
  return (low + high) / 2;
}

double ConfidenceHalfWidth(const SampleMoments& moments) {
  if (moments.count < 2) return 0;
  const auto n = static_cast<double>(moments.count);
  return TwoSidedQuantile(0.05, n - 1) * std::sqrt(moments.variance / n);
}

double WelchP(const SampleMoments& a, const SampleMoments& b) {
  if (a.count < 2 || b.count < 2) return 1;
  const double error_a = a.variance / static_cast<double>(a.count);
  const double error_b = b.variance / static_cast<double>(b.count);
  const double error = error_a + error_b;
  if (error <= 0) return a.mean == b.mean ? 1 : 0;
  const double degrees = error * error /
                         (error_a * error_a / static_cast<double>(a.count - 1) +
                          error_b * error_b / static_cast<double>(b.count - 1));
  return TwoSidedP((a.mean - b.mean) / std::sqrt(error), degrees);
}

std::vector<double> HolmAdjusted(std::span<const double> p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double highest = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    const double factor = static_cast<double>(order.size() - i);
    highest = std::max(highest, std::min(1.0, factor * p_values[order[i]]));
    adjusted[order[i]] = highest;
  }
  return adjusted;
}

}  // namespace moed::load
