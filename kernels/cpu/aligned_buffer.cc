#include "kernels/cpu/aligned_buffer.h"

#include <sys/mman.h>

#include "config/base/check.h"

namespace moed::kernels::cpu {
namespace {

constexpr int64_t kCacheLine = 64;
constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

AlignedMemory AllocateAligned(int64_t bytes) {
  MOED_CHECK(bytes >= 0 && bytes <= INT64_MAX - kHugePage);
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  const int64_t rounded = (bytes / alignment + 1) * alignment;
  AlignedMemory memory(std::aligned_alloc(alignment, rounded));
#ifdef MADV_HUGEPAGE
  if (memory != nullptr && alignment == kHugePage) {
    (void)madvise(memory.get(), rounded, MADV_HUGEPAGE);  // advice: where it fails pages stay small
  }
#endif
  return memory;
}

}  // namespace moed::kernels::cpu
