#pragma once

#include <climits>
#include <cstddef>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

/// The part of NCCL that the communicator uses, as nccl.h of 2.17 and later declares it; the names
/// follow nccl.h. NCCL is found when it is needed: neither building nor a CPU rank needs it.
namespace moed::nccl {

enum Result : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,
};

enum DataType : int { kUint8 = 1 };

struct Comm;           // opaque
using Stream = void*;  // cudaStream_t
struct UniqueId {      // ncclUniqueId
  char internal[128] = {};
};

/// ncclConfig_t of 2.17: later versions take shorter ones and fill in the rest.
struct Config {
  size_t size = sizeof(Config);
  unsigned int magic = 0xcafebeef;
  unsigned int version = 21700;
  int blocking = INT_MIN;  // INT_MIN and null: NCCL chooses
  int cga_cluster_size = INT_MIN;
  int min_ctas = INT_MIN;
  int max_ctas = INT_MIN;
  const char* net_name = nullptr;
};

inline constexpr int kOldestVersion = 21700;

/// The functions of one loaded library. A value; the library stays loaded for good, because NCCL's
/// own threads may run in it until the process ends.
struct Library {
  /// Loads `path`; "" is libnccl.so.2 wherever the system finds it. NOT_FOUND when it cannot be
  /// loaded, FAILED_PRECONDITION when it lacks a function or is older than 2.17.
  static absl::StatusOr<Library> Load(const std::string& path);

  std::string path;
  int version = 0;  // 22809 is 2.28.9

  Result (*GetVersion)(int* version) = nullptr;
  Result (*GetUniqueId)(UniqueId* id) = nullptr;
  Result (*CommInitRankConfig)(Comm** comm, int num_ranks, UniqueId id, int rank,
                               Config* config) = nullptr;
  Result (*CommDestroy)(Comm* comm) = nullptr;
  Result (*CommAbort)(Comm* comm) = nullptr;
  Result (*CommGetAsyncError)(Comm* comm, Result* error) = nullptr;
  const char* (*GetErrorString)(Result result) = nullptr;
  const char* (*GetLastError)(Comm* comm) = nullptr;
  Result (*GroupStart)() = nullptr;
  Result (*GroupEnd)() = nullptr;
  Result (*Send)(const void* data, size_t count, DataType type, int peer, Comm* comm,
                 Stream stream) = nullptr;
  Result (*Recv)(void* data, size_t count, DataType type, int peer, Comm* comm,
                 Stream stream) = nullptr;
  Result (*AllGather)(const void* send, void* recv, size_t send_count, DataType type, Comm* comm,
                      Stream stream) = nullptr;
};

}  // namespace moed::nccl
