#pragma once

#include <cstdint>

/// Loops that do nothing but read memory, or nothing but arithmetic, once per instruction set.
///
/// As in kernels/cpu/kernel_table.h, each translation unit behind these tables is compiled for one
/// instruction set and includes nothing but this header, ceiling_loops_inl.h and C headers, so that
/// none of its code can be picked by the linker for the rest of the program.
namespace moed {

inline constexpr int kNumReadMethods = 4;
inline constexpr const char* kReadMethods[kNumReadMethods] = {"plain", "prefetch T0", "prefetch T1",
                                                              "prefetch NTA"};

struct CeilingLoops {
  const char* instruction_set = nullptr;
  /// Read `bytes`, a multiple of 256, of `data`, 64-byte aligned, once, in order; return something
  /// that depends on all of it.
  int64_t (*read[kNumReadMethods])(const char* data, int64_t bytes) = {};
  /// Operate on registers for so many rounds and return the number of operations, a multiplication
  /// and an addition being two. Null where the instruction set has no such instruction.
  int64_t (*f32)(int64_t rounds) = nullptr;
  int64_t (*bf16)(int64_t rounds) = nullptr;
  int64_t (*int8)(int64_t rounds) = nullptr;
};

extern const CeilingLoops kCeilingLoopsPortable;
extern const CeilingLoops kCeilingLoopsAvx2;
extern const CeilingLoops kCeilingLoopsAvx512;
extern const CeilingLoops kCeilingLoopsAvx512Bf16;
extern const CeilingLoops kCeilingLoopsAvx512Vnni;

}  // namespace moed
