#include "tests/cuda_emulation/device_memory.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#if defined(__SANITIZE_ADDRESS__)
#define EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATION_ASAN 1
#endif
#endif
#ifdef EMULATION_ASAN
#include <sanitizer/asan_interface.h>
#define EMULATION_POISON(start, bytes) __asan_poison_memory_region(start, bytes)
#define EMULATION_UNPOISON(start, bytes) __asan_unpoison_memory_region(start, bytes)
#else
#define EMULATION_POISON(start, bytes) static_cast<void>(0)
#define EMULATION_UNPOISON(start, bytes) static_cast<void>(0)
#endif

namespace cuda_emulation {
namespace {

constexpr size_t kAlignment = 256;  // as cudaMalloc's
constexpr unsigned char kWatched = 0xa5;

// AddressSanitizer has guards of its own, right at the end of a range.
#ifdef EMULATION_ASAN
constexpr size_t kWatchedBytes = 0;
#else
constexpr size_t kWatchedBytes = 256;
#endif

void* Start(uintptr_t address) { return reinterpret_cast<void*>(address); }

bool Untouched(uintptr_t address) {
  const auto* bytes = static_cast<const unsigned char*>(Start(address));
  for (size_t i = 0; i < kWatchedBytes; ++i) {
    if (bytes[i] != kWatched) return false;
  }
  return true;
}

}  // namespace

void* DeviceMemory::Allocate(size_t bytes) {
  if (bytes > limit_bytes_ || used_bytes_ > limit_bytes_ - bytes) return nullptr;
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes + 2 * kWatchedBytes) != 0) return nullptr;
  char* start = static_cast<char*>(memory) + kWatchedBytes;
  if (bytes > 0) std::memset(start, 0xff, bytes);
  if (kWatchedBytes > 0) {
    std::memset(memory, kWatched, kWatchedBytes);
    std::memset(start + bytes, kWatched, kWatchedBytes);
  }
  EMULATION_POISON(start, bytes);
  ranges_[reinterpret_cast<uintptr_t>(start)] = bytes;
  used_bytes_ += bytes;
  return start;
}

bool DeviceMemory::Free(void* pointer) {
  const auto found = ranges_.find(reinterpret_cast<uintptr_t>(pointer));
  if (found == ranges_.end()) return false;
  EMULATION_UNPOISON(pointer, found->second);
  used_bytes_ -= found->second;
  ranges_.erase(found);
  std::free(static_cast<char*>(pointer) - kWatchedBytes);
  return true;
}

bool DeviceMemory::Contains(const void* pointer, size_t bytes) const {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  const auto next = ranges_.upper_bound(address);
  if (next == ranges_.begin()) return false;
  const auto& [start, size] = *std::prev(next);
  return address - start <= size && bytes <= size - (address - start);
}

void DeviceMemory::Expose() {
  for ([[maybe_unused]] const auto& [start, bytes] : ranges_)
    EMULATION_UNPOISON(Start(start), bytes);
}

void DeviceMemory::Hide() {
  for ([[maybe_unused]] const auto& [start, bytes] : ranges_) EMULATION_POISON(Start(start), bytes);
}

void DeviceMemory::CheckEnds(const char* when) const {
  for (const auto& [start, bytes] : ranges_) {
    const bool before = Untouched(start - kWatchedBytes), after = Untouched(start + bytes);
    if (before && after) continue;
    std::fprintf(stderr, "cuda emulation: out of bounds: %s wrote %s an allocation of %zu bytes\n",
                 when, before ? "behind" : "before", bytes);
    std::abort();
  }
}

}  // namespace cuda_emulation
