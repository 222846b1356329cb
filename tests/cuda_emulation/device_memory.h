#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace cuda_emulation {

/// The memory of the emulated device: ranges of the heap that host code must not touch.
///
/// Owned by the emulated device. Under AddressSanitizer the ranges are poisoned except while device
/// work is being done, and both ends are guarded; in other builds the bytes beside a range are
/// watched, and a change is reported when the kernel that made it has ended.
class DeviceMemory {
 public:
  /// Null when more than `limit` bytes would be in use.
  void* Allocate(size_t bytes);
  /// False for what was not allocated here.
  bool Free(void* pointer);
  bool Contains(const void* pointer, size_t bytes) const;

  /// Around all device work.
  void Expose();
  void Hide();
  /// Ends the process if a write went past the ends of a range. `when` completes the message.
  void CheckEnds(const char* when) const;

  size_t used_bytes() const { return used_bytes_; }
  size_t limit_bytes() const { return limit_bytes_; }
  void set_limit_bytes(size_t bytes) { limit_bytes_ = bytes; }

 private:
  std::map<uintptr_t, size_t> ranges_;  // start -> bytes
  size_t used_bytes_ = 0;
  size_t limit_bytes_ = size_t{1} << 30;
};

}  // namespace cuda_emulation
