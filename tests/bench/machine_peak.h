#pragma once

#include <cstddef>
#include <cstdint>

/// What this machine can do at best, to hold the kernels against.
namespace moed::bench {

/// Runs `rounds` rounds of bf16 dot products that touch registers only, and returns how many
/// floating-point operations that was; 0 where the CPU has no AVX-512 BF16.
int64_t RunBf16DotProducts(int64_t rounds);

/// Reads all of `data` once, in order; returns something that depends on it.
int64_t ReadAll(const char* data, size_t bytes);

}  // namespace moed::bench
