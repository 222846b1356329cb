#pragma once

#include <cstdint>

namespace moed::load {

/// Steele's SplitMix64: a small generator of random bits for <random>, cheap to make for one
/// request. Streams of different (seed, index) are independent for our purposes.
class Random {
 public:
  using result_type = uint64_t;

  Random(uint64_t seed, uint64_t index) : state_(Mix(seed + kGamma) ^ Mix(~index)) {}

  static constexpr uint64_t min() { return 0; }
  static constexpr uint64_t max() { return ~uint64_t{0}; }
  uint64_t operator()() { return Mix(state_ += kGamma); }

  /// In [0, 1).
  double Uniform() { return static_cast<double>((*this)() >> 11) * 0x1.0p-53; }

  /// In [0, bound); bound > 0. Biased by less than bound / 2^64.
  uint64_t Below(uint64_t bound) {
    return static_cast<uint64_t>((static_cast<unsigned __int128>((*this)()) * bound) >> 64);
  }

 private:
  static constexpr uint64_t kGamma = 0x9e3779b97f4a7c15;

  static constexpr uint64_t Mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }

  uint64_t state_;
};

}  // namespace moed::load
