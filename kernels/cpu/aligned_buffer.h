#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>

namespace moed::kernels::cpu {

struct FreeMemory {
  void operator()(void* data) const { std::free(data); }
};

/// Memory from AllocateAligned; null when there was none to be had.
using AlignedMemory = std::unique_ptr<void, FreeMemory>;

/// At least `bytes` >= 0 bytes, not zeroed, 64-byte aligned; large blocks are made of huge pages
/// where the system has them. Null when memory is short.
AlignedMemory AllocateAligned(int64_t bytes);

}  // namespace moed::kernels::cpu
