#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

/// What device code may ask of the block executor.
namespace cuda_emulation {

/// A place in the source, for messages.
struct Site {
  const char* file;
  int line;
};

/// Prints "cuda emulation: block (x, y, z) thread (x, y, z): message" to stderr and aborts.
[[noreturn]] void KernelError(const char* format, ...) __attribute__((format(printf, 1, 2)));

/// Waits for all threads of the block. All must come to the same site; returns how many of them
/// gave a predicate that is not 0.
int Barrier(int predicate, Site site);

/// One lane's part in an operation of a warp. `complete` is called once, when all lanes of the mask
/// have come, with the `lane` of each (null for those outside the mask).
struct WarpCall {
  const char* name;
  uint32_t mask;
  void* lane;
  void (*complete)(void* const* lanes);
  Site site;
};
void CallWarp(const WarpCall& call);

/// CallWarp with a type for the lanes. `Complete` is a lambda without captures: (Lane* const*
/// lanes).
template <typename Lane, typename Complete>
void WarpOperation(const char* name, uint32_t mask, Lane& lane, Complete, Site site) {
  static_assert(std::is_empty_v<Complete>);
  CallWarp(
      {.name = name,
       .mask = mask,
       .lane = &lane,
       .complete = [](void* const* lanes) { Complete{}(reinterpret_cast<Lane* const*>(lanes)); },
       .site = site});
}

/// This thread's place in its warp.
int LaneId();

/// The block's dynamic shared memory: as many bytes as the launch asked for, filled with 0xff.
void* DynamicSharedMemory();

/// cp.async: `bytes` of 16 from global to shared memory, the rest zero. Nothing arrives before the
/// wait that covers it; until then the target is 0xff. Wrong addresses are kernel errors.
void CopyAsync(void* shared, const void* global, int bytes, Site site);
void CommitCopies();
/// Waits until at most `pending` of this thread's committed groups are left.
void WaitForCopies(int pending);

/// Kernel error unless `address` lies in this block's shared memory, aligned to `bytes`.
void CheckShared(const void* address, int bytes, const char* what, Site site);

}  // namespace cuda_emulation
