#pragma once

#include <stdint.h>

#include "engine/bench/ceiling_loops.h"

namespace moed {
namespace {

constexpr int64_t kReadStep = 256;
constexpr int64_t kPrefetchDistance = 4096;

typedef uint64_t ReadVector __attribute__((vector_size(64)));

/// Locality as of __builtin_prefetch: 3 is T0, 2 is T1, 0 is NTA; -1 is no prefetch.
template <int kLocality>
int64_t Read(const char* data, int64_t bytes) {
  ReadVector sum[4] = {};
  for (int64_t i = 0; i < bytes; i += kReadStep) {
    const ReadVector* line = reinterpret_cast<const ReadVector*>(data + i);
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      if constexpr (kLocality >= 0) {
        __builtin_prefetch(data + i + kPrefetchDistance + 64 * j, 0, kLocality);
      }
      sum[j] += line[j];
    }
  }
  const ReadVector all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  uint64_t total = 0;
  for (int j = 0; j < 8; ++j) total += all[j];
  return static_cast<int64_t>(total);
}

/// `Op` has a register type Acc, Start(float) -> Acc, Step(Acc) -> Acc, the operations of a step,
/// and the number of registers that hide its latency. What the registers start with comes from
/// volatile memory: nothing can be computed in advance, and no two are known to be equal.
template <typename Op>
int64_t RunOnRegisters(int64_t rounds) {
  volatile float start = 1.0f;
  typename Op::Acc acc[Op::kRegisters];
  for (int j = 0; j < Op::kRegisters; ++j) acc[j] = Op::Start(start);
  const Op op(start);
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (int j = 0; j < Op::kRegisters; ++j) acc[j] = op.Step(acc[j]);
  }
  typename Op::Acc sink[Op::kRegisters];
  for (int j = 0; j < Op::kRegisters; ++j) sink[j] = acc[j];
  volatile char seen = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(sizeof(sink)); ++i) {
    seen = reinterpret_cast<const char*>(sink)[i];
  }
  (void)seen;
  return rounds * Op::kRegisters * Op::kOperations;
}

}  // namespace
}  // namespace moed
