#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace moed::load {

/// Counts of non-negative integers (here nanoseconds) in log-linear buckets: 2^precision_bits
/// buckets for each power of two. A value that is read back is within 2^-(precision_bits + 1) of
/// one that was added: 0.05 % for 10 bits. Sum and extremes are exact. Memory grows with the powers
/// of two that occur, not with the number of values.
///
/// A value; used by one thread at a time.
class Histogram {
 public:
  static constexpr int kFineBits = 10;
  static constexpr int kCoarseBits = 7;  // 0.4 %: for the many histograms of a timeline

  explicit Histogram(int precision_bits = kFineBits) : precision_bits_(precision_bits) {}

  /// Adds `value` (negative ones as 0) `count` times.
  void Add(int64_t value, int64_t count = 1);

  /// Adds everything that is in `other`, which has the same precision.
  void Merge(const Histogram& other);

  int precision_bits() const { return precision_bits_; }
  int64_t count() const { return count_; }
  double sum() const { return sum_; }
  int64_t min() const { return count_ > 0 ? min_ : 0; }
  int64_t max() const { return max_; }

  /// 0 when empty, as are the figures below.
  double Mean() const;

  /// Of the population, as numpy.std computes it.
  double StandardDeviation() const;

  /// `percent` in [0, 100], interpolated between the two nearest values as numpy.percentile does.
  double Percentile(double percent) const;

  /// Values that are at most `limit`, to the precision of a bucket.
  int64_t CountUpTo(int64_t limit) const;

  /// Calls visit(representative value, count) for each bucket that is not empty, in rising order.
  void ForEachBucket(const std::function<void(double, int64_t)>& visit) const;

 private:
  double ValueOfRank(int64_t rank) const;
  size_t BucketOf(int64_t value) const;
  double MiddleOf(size_t bucket) const;

  int precision_bits_;
  int64_t count_ = 0;
  int64_t min_ = 0;
  int64_t max_ = 0;
  double sum_ = 0;
  double sum_of_squares_ = 0;
  std::vector<std::vector<int64_t>> chunks_;  // [power of two][2^precision_bits], [] where empty
};

}  // namespace moed::load
