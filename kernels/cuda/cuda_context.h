#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <tuple>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/pinned_copy.h"

namespace moed::kernels::cuda {

/// What every op of one GPU needs: its stream, memory for a step's small arrays, and the first
/// failure.
///
/// Owned by CudaBackend and used from the thread that calls its ops.
class CudaContext {
 public:
  /// NOT_FOUND when there is no such device, FAILED_PRECONDITION when it is older than sm_80.
  static absl::StatusOr<std::unique_ptr<CudaContext>> Create(int device_index);
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;
  ~CudaContext();

  int device_index() const { return device_index_; }
  const std::string& architecture() const { return architecture_; }  // "sm_90"
  /// Where to launch. Makes this GPU the calling thread's: CUDA keeps that choice per thread.
  const Device& Begin();

  /// Keeps the first error, with what noticed it: a kernel's fault shows in some later call.
  void Keep(cudaError_t error, const char* what);
  /// Nothing may be launched any more: some op has failed.
  bool failed() const { return !status_.ok(); }
  const absl::Status& status() const { return status_; }
  /// Waits for everything. The first failure since the device was opened, if any; it stays.
  absl::Status Synchronize();

  /// Copies in the order of the ops; the host memory may change as soon as this returns.
  void CopyToDevice(void* device, const void* host, int64_t bytes);
  /// The same for memory that is filled in piece by piece; see PinnedCopy::Copy.
  void CopyToDevice(void* device, size_t num_units, size_t unit_bytes,
                    absl::FunctionRef<void(char* to, size_t first, size_t count)> fill);

  /// While ops are recorded nothing may be uploaded and no memory may move: a recording would
  /// repeat it with what is there no more.
  void set_is_recording(bool is_recording) { is_recording_ = is_recording; }

  /// The values of each span in device memory, for the ops that are launched before the next call;
  /// null for an empty span, all null when failed.
  template <typename... T>
  std::tuple<const T*...> Upload(std::span<const T>... values) {
    if (!MayUpload() || !ReserveStaging((Aligned(values.size_bytes()) + ...))) return {};
    return {static_cast<const T*>(UploadBytes(values.data(), values.size_bytes()))...};
  }
  /// At least `bytes` of device memory for the ops that are launched next; the next call may give
  /// the same. Null when failed.
  void* Scratch(int64_t bytes);

 private:
  CudaContext() = default;
  static constexpr size_t Aligned(size_t bytes) { return (bytes + 255) / 256 * 256; }
  const void* UploadBytes(const void* data, size_t bytes);
  bool ReserveStaging(size_t bytes);
  void FreeStaging();

  bool MayUpload();

  int device_index_ = 0;
  std::string architecture_;
  Device device_;
  absl::Status status_;
  bool is_recording_ = false;
  PinnedCopy pinned_copy_;
  // Uploads go one behind the other through pinned memory to the same place in device memory; when
  // it is full they wait for the stream and begin anew.
  char* staging_host_ = nullptr;
  char* staging_device_ = nullptr;
  size_t staging_bytes_ = 0;
  size_t staging_used_ = 0;
  void* scratch_ = nullptr;
  int64_t scratch_bytes_ = 0;
};

}  // namespace moed::kernels::cuda
