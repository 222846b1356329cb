#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda_emulation/builtins.h"
#include "cuda_emulation/threads.h"

/// CUDA's device functions, as far as kernels/cuda uses them.

#define CUDA_EMULATION_SITE \
  cuda_emulation::Site { __builtin_FILE(), __builtin_LINE() }
#define CUDA_EMULATION_SITE_ARG cuda_emulation::Site site = {__builtin_FILE(), __builtin_LINE()}

// ---- barriers ----

inline void __syncthreads(CUDA_EMULATION_SITE_ARG) { cuda_emulation::Barrier(0, site); }
inline int __syncthreads_count(int predicate, CUDA_EMULATION_SITE_ARG) {
  return cuda_emulation::Barrier(predicate, site);
}
inline int __syncthreads_or(int predicate, CUDA_EMULATION_SITE_ARG) {
  return cuda_emulation::Barrier(predicate, site) > 0;
}
inline int __syncthreads_and(int predicate, CUDA_EMULATION_SITE_ARG) {
  return cuda_emulation::Barrier(!predicate, site) == 0;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// ---- warp operations ----

namespace cuda_emulation {

template <typename T>
struct ShuffleLane {
  T value;
  int source;  // of 32
  T result;
};

/// All four shuffles: each lane names the lane it reads.
template <typename T>
T Shuffle(const char* name, uint32_t mask, T value, int source, Site site) {
  ShuffleLane<T> lane = {value, source, value};
  WarpOperation(
      name, mask, lane,
      [](ShuffleLane<T>* const* lanes) {
        for (int i = 0; i < 32; ++i) {
          if (lanes[i] == nullptr) continue;
          const ShuffleLane<T>* from = lanes[lanes[i]->source];
          if (from == nullptr)
            KernelError("lane %d reads lane %d, which takes no part", i, lanes[i]->source);
          lanes[i]->result = from->value;
        }
      },
      site);
  return lane.result;
}

struct VoteLane {
  int64_t value;
  uint32_t result;
};

template <typename Complete>
uint32_t Vote(const char* name, uint32_t mask, int64_t value, Complete complete, Site site) {
  VoteLane lane = {value, 0};
  WarpOperation(name, mask, lane, complete, site);
  return lane.result;
}

template <typename T>
struct ReduceLane {
  T value;
};

template <typename T, typename Combine>
T Reduce(const char* name, uint32_t mask, T value, Combine, Site site) {
  ReduceLane<T> lane = {value};
  WarpOperation(
      name, mask, lane,
      [](ReduceLane<T>* const* lanes) {
        const ReduceLane<T>* first = nullptr;
        T all{};
        for (int i = 0; i < 32; ++i) {
          if (lanes[i] == nullptr) continue;
          all = first == nullptr ? lanes[i]->value : Combine{}(all, lanes[i]->value);
          first = lanes[i];
        }
        for (int i = 0; i < 32; ++i) {
          if (lanes[i] != nullptr) lanes[i]->value = all;
        }
      },
      site);
  return lane.value;
}

}  // namespace cuda_emulation

inline void __syncwarp(uint32_t mask = 0xffffffffu, CUDA_EMULATION_SITE_ARG) {
  cuda_emulation::Vote(
      "__syncwarp", mask, 0, [](cuda_emulation::VoteLane* const*) {}, site);
}

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, CUDA_EMULATION_SITE_ARG) {
  const int lane = cuda_emulation::LaneId();
  return cuda_emulation::Shuffle("__shfl_sync", mask, value,
                                 (lane & ~(width - 1)) | (source & (width - 1)), site);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, CUDA_EMULATION_SITE_ARG) {
  const int lane = cuda_emulation::LaneId(), from = lane - static_cast<int>(delta);
  return cuda_emulation::Shuffle("__shfl_up_sync", mask, value,
                                 from < (lane & ~(width - 1)) ? lane : from, site);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32,
                   CUDA_EMULATION_SITE_ARG) {
  const int lane = cuda_emulation::LaneId(), from = lane + static_cast<int>(delta);
  return cuda_emulation::Shuffle("__shfl_down_sync", mask, value,
                                 from > (lane | (width - 1)) ? lane : from, site);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lane_mask, int width = 32, CUDA_EMULATION_SITE_ARG) {
  const int lane = cuda_emulation::LaneId(), from = lane ^ lane_mask;
  return cuda_emulation::Shuffle("__shfl_xor_sync", mask, value,
                                 from > (lane | (width - 1)) ? lane : from, site);
}

inline uint32_t __ballot_sync(uint32_t mask, int predicate, CUDA_EMULATION_SITE_ARG) {
  return cuda_emulation::Vote(
      "__ballot_sync", mask, predicate,
      [](cuda_emulation::VoteLane* const* lanes) {
        uint32_t bits = 0;
        for (int i = 0; i < 32; ++i) {
          if (lanes[i] != nullptr && lanes[i]->value != 0) bits |= 1u << i;
        }
        for (int i = 0; i < 32; ++i) {
          if (lanes[i] != nullptr) lanes[i]->result = bits;
        }
      },
      site);
}
inline int __any_sync(uint32_t mask, int predicate, CUDA_EMULATION_SITE_ARG) {
  return __ballot_sync(mask, predicate, site) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, CUDA_EMULATION_SITE_ARG) {
  return __ballot_sync(mask, !predicate, site) == 0;
}
template <typename T>
uint32_t __match_any_sync(uint32_t mask, T value, CUDA_EMULATION_SITE_ARG) {
  int64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(value));
  return cuda_emulation::Vote(
      "__match_any_sync", mask, bits,
      [](cuda_emulation::VoteLane* const* lanes) {
        for (int i = 0; i < 32; ++i) {
          for (int j = 0; j < 32; ++j) {
            if (lanes[i] != nullptr && lanes[j] != nullptr && lanes[i]->value == lanes[j]->value) {
              lanes[i]->result |= 1u << j;
            }
          }
        }
      },
      site);
}
template <typename T>
uint32_t __match_all_sync(uint32_t mask, T value, int* predicate, CUDA_EMULATION_SITE_ARG) {
  const uint32_t equal = __match_any_sync(mask, value, site);
  *predicate = equal == mask;
  return equal == mask ? mask : 0;
}

#define CUDA_EMULATION_REDUCE(name, types, expression)                                  \
  template <typename T>                                                                 \
  T name(uint32_t mask, T value, CUDA_EMULATION_SITE_ARG) {                             \
    static_assert(types);                                                               \
    return cuda_emulation::Reduce(                                                      \
        #name, mask, value, [](T a, T b) { return static_cast<T>(expression); }, site); \
  }
CUDA_EMULATION_REDUCE(__reduce_add_sync, std::is_integral_v<T> && sizeof(T) == 4,
                      static_cast<unsigned>(a) + static_cast<unsigned>(b))
CUDA_EMULATION_REDUCE(__reduce_min_sync, std::is_integral_v<T> && sizeof(T) == 4, b < a ? b : a)
CUDA_EMULATION_REDUCE(__reduce_max_sync, std::is_integral_v<T> && sizeof(T) == 4, a < b ? b : a)
CUDA_EMULATION_REDUCE(__reduce_and_sync, (std::is_same_v<T, unsigned>), a& b)
CUDA_EMULATION_REDUCE(__reduce_or_sync, (std::is_same_v<T, unsigned>), a | b)
CUDA_EMULATION_REDUCE(__reduce_xor_sync, (std::is_same_v<T, unsigned>), a ^ b)
#undef CUDA_EMULATION_REDUCE

// ---- atomics: a thread stops at barriers and warp operations only, so plain updates are atomic
// ----

#define CUDA_EMULATION_ATOMIC(name, expression)   \
  template <typename T>                           \
  T name(T* address, std::type_identity_t<T> x) { \
    const T old = *address;                       \
    *address = static_cast<T>(expression);        \
    return old;                                   \
  }
CUDA_EMULATION_ATOMIC(atomicAdd, old + x)
CUDA_EMULATION_ATOMIC(atomicExch, x)
CUDA_EMULATION_ATOMIC(atomicMin, x < old ? x : old)
CUDA_EMULATION_ATOMIC(atomicMax, old < x ? x : old)
CUDA_EMULATION_ATOMIC(atomicAnd, old& x)
CUDA_EMULATION_ATOMIC(atomicOr, old | x)
#undef CUDA_EMULATION_ATOMIC
template <typename T>
T atomicCAS(T* address, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
  const T old = *address;
  if (old == expected) *address = x;
  return old;
}

// ---- arithmetic ----

inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline int64_t clock64() {
  static int64_t ticks = 0;
  return ++ticks;
}
using std::max;
using std::min;
