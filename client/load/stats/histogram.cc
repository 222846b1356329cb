#include "client/load/stats/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "config/base/check.h"

namespace moed::load {

void Histogram::Add(int64_t value, int64_t count) {
  if (count <= 0) return;
  value = std::max<int64_t>(value, 0);
  const size_t bucket = BucketOf(value);
  const size_t chunk = bucket >> precision_bits_;
  if (chunk >= chunks_.size()) chunks_.resize(chunk + 1);
  if (chunks_[chunk].empty()) chunks_[chunk].resize(size_t{1} << precision_bits_);
  chunks_[chunk][bucket & ((size_t{1} << precision_bits_) - 1)] += count;
  min_ = count_ > 0 ? std::min(min_, value) : value;
  max_ = std::max(max_, value);
  count_ += count;
  const double times = static_cast<double>(count);
  sum_ += static_cast<double>(value) * times;
  sum_of_squares_ += static_cast<double>(value) * static_cast<double>(value) * times;
}

void Histogram::Merge(const Histogram& other) {
  MOED_CHECK(precision_bits_ == other.precision_bits_);
  if (other.count_ == 0) return;
  if (chunks_.size() < other.chunks_.size()) chunks_.resize(other.chunks_.size());
  for (size_t chunk = 0; chunk < other.chunks_.size(); ++chunk) {
    const std::vector<int64_t>& from = other.chunks_[chunk];
    if (from.empty()) continue;
    if (chunks_[chunk].empty()) chunks_[chunk].resize(from.size());
    for (size_t i = 0; i < from.size(); ++i) chunks_[chunk][i] += from[i];
  }
  min_ = count_ > 0 ? std::min(min_, other.min_) : other.min_;
  max_ = std::max(max_, other.max_);
  count_ += other.count_;
  sum_ += other.sum_;
  sum_of_squares_ += other.sum_of_squares_;
}

double Histogram::Mean() const { return count_ > 0 ? sum_ / static_cast<double>(count_) : 0; }

double Histogram::StandardDeviation() const {
  if (count_ == 0) return 0;
  const double mean = Mean();
  return std::sqrt(std::max(0.0, sum_of_squares_ / static_cast<double>(count_) - mean * mean));
}

double Histogram::Percentile(double percent) const {
  if (count_ == 0) return 0;
  const double rank = std::clamp(percent, 0.0, 100.0) / 100 * static_cast<double>(count_ - 1);
  const double below = std::floor(rank);
  const double low = ValueOfRank(static_cast<int64_t>(below));
  const double part = rank - below;
  return part > 0 ? low + part * (ValueOfRank(static_cast<int64_t>(below) + 1) - low) : low;
}

int64_t Histogram::CountUpTo(int64_t limit) const {
  int64_t count = 0;
  ForEachBucket([&](double value, int64_t in_bucket) {
    if (value <= static_cast<double>(limit)) count += in_bucket;
  });
  return count;
}

void Histogram::ForEachBucket(const std::function<void(double, int64_t)>& visit) const {
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    for (size_t i = 0; i < chunks_[chunk].size(); ++i) {
      if (chunks_[chunk][i] > 0) {
        const double middle = MiddleOf((chunk << precision_bits_) + i);
        visit(std::clamp(middle, static_cast<double>(min_), static_cast<double>(max_)),
              chunks_[chunk][i]);
      }
    }
  }
}

double Histogram::ValueOfRank(int64_t rank) const {
  if (rank <= 0) return static_cast<double>(min_);
  if (rank >= count_ - 1) return static_cast<double>(max_);
  int64_t seen = 0;
  for (size_t chunk = 0; chunk < chunks_.size(); ++chunk) {
    for (size_t i = 0; i < chunks_[chunk].size(); ++i) {
      seen += chunks_[chunk][i];
      if (seen > rank) {
        const double middle = MiddleOf((chunk << precision_bits_) + i);
        return std::clamp(middle, static_cast<double>(min_), static_cast<double>(max_));
      }
    }
  }
  return static_cast<double>(max_);
}

// Values below 2^(bits + 1) have a bucket each; above, the leading bits + 1 bits choose it.
size_t Histogram::BucketOf(int64_t value) const {
  const int width = std::bit_width(static_cast<uint64_t>(value));
  const int shift = std::max(0, width - precision_bits_ - 1);
  return (static_cast<size_t>(shift) << precision_bits_) + static_cast<size_t>(value >> shift);
}

double Histogram::MiddleOf(size_t bucket) const {
  const size_t per_chunk = size_t{1} << precision_bits_;
  if (bucket < 2 * per_chunk) return static_cast<double>(bucket);
  const size_t shift = (bucket >> precision_bits_) - 1;
  const size_t leading = bucket - (shift << precision_bits_);
  return std::ldexp(static_cast<double>(leading) + 0.5, static_cast<int>(shift)) - 0.5;
}

}  // namespace moed::load
