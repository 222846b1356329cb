#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/op_stream.h"
#include "kernels/params.h"
#include "kernels/tensor_view.h"

namespace moed::kernels {

class Backend;

/// Memory of a backend; freed with the object. The backend must outlive it.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Backend* backend, void* data, int64_t bytes)
      : backend_(backend), data_(data), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  void* data() const { return data_; }
  int64_t size_bytes() const { return bytes_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  Backend* backend_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

/// One device: its memory and every op of a forward pass, once, in forward order.
///
/// Owned by the engine of a rank and called from that engine's compute thread only. Ops run in
/// order; a backend may run them asynchronously until Synchronize(). Ops cannot fail for reasons of
/// their input: callers guarantee shapes and index ranges (MOED_CHECK guards them); device failures
/// are kept and returned by Synchronize().
///
/// Every op is row-invariant: a row of the output depends on that row's inputs alone, bit for bit,
/// never on how many other rows there are or where it stands (design.md, section 3).
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string device() const = 0;           // "cpu", "cuda:0"
  virtual std::string instruction_set() const = 0;  // "portable", "avx2", "avx512", "avx512_bf16"
  virtual DType activation_dtype() const = 0;       // kBF16 or kF32

  /// UNIMPLEMENTED unless attention can have heads of this size: to be asked before weights are
  /// loaded.
  virtual absl::Status CheckHeadDim(int64_t head_dim) const = 0;

  // Memory.
  virtual absl::StatusOr<Buffer> Allocate(int64_t bytes) = 0;  // 64-byte aligned, zeroed
  virtual void Free(void* data, int64_t bytes) = 0;
  virtual void CopyToDevice(void* device, const void* host, int64_t bytes) = 0;
  virtual void CopyToHost(void* host, const void* device, int64_t bytes) = 0;
  virtual absl::Status Synchronize() = 0;
  /// Where a transport between ranks puts its work among the ops; null for a backend whose ops are
  /// done when they return, in memory of the host.
  virtual OpStream* op_stream() = 0;

  // Weights. Sources are read during the call only.
  /// The sources are stacked along rows: [sum N_i, K]; a bias (f32, [sum N_i], may be empty) is
  /// added. Integer formats with f32 activations are INVALID_ARGUMENT.
  virtual absl::StatusOr<std::unique_ptr<LinearWeights>> LoadLinear(
      std::span<const HostMatrix> stacked, std::span<const float> bias, WeightFormat format) = 0;
  virtual absl::StatusOr<std::unique_ptr<ExpertWeights>> LoadExperts(
      std::span<const ExpertSource> experts, WeightFormat format) = 0;

  // Steps.
  /// How many rows a recordable step of num_rows should be given, so that few recordings serve all
  /// numbers; 0 when such a step is not worth recording, as on a CPU.
  virtual int64_t RowsToRecord(int64_t num_rows) const = 0;
  /// Runs the ops of a step by calling `ops`; a backend may instead repeat what it recorded of a
  /// step with the same recording_id. The status is that of `ops`, or of recording.
  virtual absl::Status RunStep(const StepParams& params, absl::FunctionRef<absl::Status()> ops) = 0;

  // Ops, in forward order.
  /// hidden[t, :] = scale * table[ids[t], :]; table [V, H] as loaded by LoadLinear; ids [T]; hidden
  /// [T, H] f32.
  virtual void EmbedTokens(const LinearWeights& table, const int32_t* ids, float scale,
                           TensorView hidden) = 0;
  /// out = x * rsqrt(mean(x^2) + eps) * weight; x [T, H] f32, weight [H] f32, out [T, H] activation
  /// dtype.
  virtual void RmsNorm(TensorView x, const float* weight, float eps, TensorView out) = 0;
  virtual void Linear(const LinearParams& params) = 0;
  virtual void PrepareQkv(const PrepareQkvParams& params, const KvCacheView& cache) = 0;
  virtual void Attention(const AttentionParams& params) = 0;
  virtual void Route(const RouteParams& params) = 0;
  virtual void PlanExperts(const PlanExpertsParams& params) = 0;
  virtual void LocateRows(const LocateRowsParams& params) = 0;
  virtual void GatherRows(const GatherRowsParams& params) = 0;
  virtual void ExpertsGateUp(const ExpertsGateUpParams& params) = 0;
  virtual void ExpertsDown(const ExpertsDownParams& params) = 0;
  virtual void Combine(const CombineParams& params) = 0;
  virtual void AddRows(const AddRowsParams& params) = 0;
  /// Waits for the device; the chosen tokens are in params.out when it returns.
  virtual void Sample(const SampleParams& params) = 0;
};

}  // namespace moed::kernels
