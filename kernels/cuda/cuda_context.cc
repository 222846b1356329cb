#include "kernels/cuda/cuda_context.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed::kernels::cuda {
namespace {

constexpr size_t kSmallestStaging = size_t{1} << 20;

absl::Status ToStatus(cudaError_t error, int device_index, const char* what) {
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, " on cuda:", device_index, ": ",
                                          cudaGetErrorName(error), " (", cudaGetErrorString(error),
                                          ")"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CudaContext>> CudaContext::Create(int device_index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || device_index < 0 || device_index >= count) {
    return absl::NotFoundError(absl::StrCat("opening cuda:", device_index, ": this machine has ",
                                            count, " usable CUDA devices (",
                                            cudaGetErrorString(error), ")"));
  }
  std::unique_ptr<CudaContext> context(new CudaContext);
  context->device_index_ = device_index;
  cudaDeviceProp properties = {};
  MOED_RETURN_IF_ERROR(
      ToStatus(cudaGetDeviceProperties(&properties, device_index), device_index, "looking"));
  if (properties.major < 8) {
    return absl::FailedPreconditionError(
        absl::StrCat("opening cuda:", device_index, ": ", properties.name, " is sm_",
                     properties.major, properties.minor, ", expected sm_80 or later"));
  }
  context->architecture_ = absl::StrCat("sm_", properties.major, properties.minor);
  context->device_.num_multiprocessors = properties.multiProcessorCount;
  context->device_.shared_bytes_per_multiprocessor =
      static_cast<int64_t>(properties.sharedMemPerMultiprocessor);
  MOED_RETURN_IF_ERROR(ToStatus(cudaSetDevice(device_index), device_index, "choosing the device"));
  MOED_RETURN_IF_ERROR(
      ToStatus(cudaStreamCreateWithFlags(&context->device_.stream, cudaStreamNonBlocking),
               device_index, "creating a stream"));
  return context;
}

CudaContext::~CudaContext() {
  if (device_.stream == nullptr) return;
  Begin();
  cudaStreamSynchronize(device_.stream);
  FreeStaging();
  cudaFree(scratch_);
  cudaStreamDestroy(device_.stream);
}

const Device& CudaContext::Begin() {
  cudaSetDevice(device_index_);  // if it fails, so does the call that follows, which has a name
  return device_;
}

void CudaContext::Keep(cudaError_t error, const char* what) {
  if (status_.ok()) status_ = ToStatus(error, device_index_, what);
}

absl::Status CudaContext::Synchronize() {
  Keep(cudaStreamSynchronize(Begin().stream), "waiting for the ops");
  staging_used_ = 0;
  return status_;
}

bool CudaContext::MayUpload() {
  if (is_recording_) Keep(cudaErrorStreamCaptureUnsupported, "uploading in a recorded step");
  return !failed();
}

void CudaContext::CopyToDevice(void* device, const void* host, int64_t bytes) {
  const char* from = static_cast<const char*>(host);
  CopyToDevice(device, static_cast<size_t>(bytes), 1, [from](char* to, size_t first, size_t count) {
    std::memcpy(to, from + first, count);
  });
}

void CudaContext::CopyToDevice(void* device, size_t num_units, size_t unit_bytes,
                               absl::FunctionRef<void(char* to, size_t first, size_t count)> fill) {
  if (num_units == 0 || !MayUpload()) return;
  const PinnedCopy::Target target = {
      .stream = Begin().stream, .device = device, .num_units = num_units, .unit_bytes = unit_bytes};
  Keep(pinned_copy_.Copy(target, fill), "copying to the device");
}

void CudaContext::FreeStaging() {
  cudaFreeHost(staging_host_);
  cudaFree(staging_device_);
  staging_host_ = staging_device_ = nullptr;
  staging_bytes_ = staging_used_ = 0;
}

bool CudaContext::ReserveStaging(size_t bytes) {
  if (staging_used_ + bytes <= staging_bytes_) return true;
  if (!Synchronize().ok()) return false;
  if (bytes <= staging_bytes_) return true;
  FreeStaging();
  const size_t size = std::max(kSmallestStaging, 2 * bytes);
  Keep(cudaMallocHost(reinterpret_cast<void**>(&staging_host_), size), "allocating pinned memory");
  Keep(cudaMalloc(reinterpret_cast<void**>(&staging_device_), size), "allocating staging memory");
  if (!failed()) staging_bytes_ = size;
  return !failed();
}

const void* CudaContext::UploadBytes(const void* data, size_t bytes) {
  if (bytes == 0) return nullptr;
  const size_t at = staging_used_;
  std::memcpy(staging_host_ + at, data, bytes);
  Keep(cudaMemcpyAsync(staging_device_ + at, staging_host_ + at, bytes, cudaMemcpyHostToDevice,
                       device_.stream),
       "uploading the arrays of a step");
  staging_used_ += Aligned(bytes);
  return staging_device_ + at;
}

void* CudaContext::Scratch(int64_t bytes) {
  if (failed()) return nullptr;
  if (bytes <= scratch_bytes_) return scratch_;
  if (!MayUpload()) return nullptr;
  if (!Synchronize().ok()) return nullptr;
  cudaFree(scratch_);
  scratch_ = nullptr;
  scratch_bytes_ = 0;
  Keep(cudaMalloc(&scratch_, static_cast<size_t>(bytes)), "allocating scratch memory");
  if (!failed()) scratch_bytes_ = bytes;
  return scratch_;
}

}  // namespace moed::kernels::cuda
