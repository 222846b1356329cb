#include "kernels/cpu/cpu_backend.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "kernels/check_params.h"
#include "kernels/cpu/instruction_sets.h"
#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {
namespace {

size_t OffsetCount(const ExpertWeights& experts) {
  return static_cast<size_t>(experts.num_experts()) + 1;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCpuBackend(const BackendOptions& options) {
  if (options.activation_dtype != DType::kBF16 && options.activation_dtype != DType::kF32) {
    return absl::InvalidArgumentError(
        absl::StrCat("creating a CPU backend: activations are bf16 or f32, not ",
                     std::string(Name(options.activation_dtype))));
  }
  if (options.numerics != Numerics::kInvariant) {
    return absl::InvalidArgumentError(
        "creating a CPU backend: fast numerics are those of cuBLAS, on CPUs there are invariant "
        "ones "
        "only");
  }
  MOED_ASSIGN_OR_RETURN(KernelTable kernels, FindInstructionSet(options.instruction_set));
  MOED_ASSIGN_OR_RETURN(auto pool, ThreadPool::Create(options.num_threads, options.cpus));
  return std::make_unique<CpuBackend>(
      std::make_unique<CpuContext>(kernels, options.activation_dtype, std::move(pool)));
}

absl::StatusOr<Buffer> CpuBackend::Allocate(int64_t bytes) {
  if (bytes < 0 || bytes > (int64_t{1} << 46)) {
    return absl::InvalidArgumentError(absl::StrCat("allocating ", bytes, " bytes of host memory"));
  }
  AlignedMemory memory = AllocateAligned(bytes);
  if (memory == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrCat("allocating ", bytes, " bytes of host memory: there is not enough"));
  }
  std::memset(memory.get(), 0, bytes);
  return Buffer(this, memory.release(), bytes);
}

void CpuBackend::Free(void* data, int64_t) { FreeMemory()(data); }

void CpuBackend::CopyToDevice(void* device, const void* host, int64_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void CpuBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

absl::StatusOr<std::unique_ptr<LinearWeights>> CpuBackend::LoadLinear(
    std::span<const HostMatrix> stacked, std::span<const float> bias, WeightFormat format) {
  return PackLinear(*context_, stacked, bias, format);
}

absl::StatusOr<std::unique_ptr<ExpertWeights>> CpuBackend::LoadExperts(
    std::span<const ExpertSource> experts, WeightFormat format) {
  return PackExperts(*context_, experts, format);
}

void CpuBackend::EmbedTokens(const LinearWeights& table, const int32_t* ids, float scale,
                             TensorView hidden) {
  MOED_CHECK(HasShape(hidden, hidden.rows, table.in_features(), DType::kF32));
  for (int64_t i = 0; i < hidden.rows; ++i) {
    MOED_CHECK(ids[i] >= 0 && ids[i] < table.out_features());
  }
  cpu::EmbedTokens(*context_, static_cast<const PackedLinear&>(table), ids, scale, hidden);
}

void CpuBackend::RmsNorm(TensorView x, const float* weight, float eps, TensorView out) {
  MOED_CHECK(HasShape(x, x.rows, x.cols, DType::kF32));
  MOED_CHECK(HasShape(out, x.rows, x.cols, activation_dtype()));
  cpu::RmsNorm(*context_, {.x = x, .weight = weight, .eps = eps, .out = out});
}

void CpuBackend::Linear(const LinearParams& p) {
  MOED_CHECK(HasShape(p.x, p.x.rows, p.weights->in_features(), activation_dtype()));
  MOED_CHECK(HasShape(p.out, p.x.rows, p.weights->out_features(), DType::kF32));
  MOED_CHECK(p.x.rows <= INT32_MAX);
  cpu::Linear(*context_, p);
}

void CpuBackend::PrepareQkv(const PrepareQkvParams& p, const KvCacheView& cache) {
  const int64_t q_width = static_cast<int64_t>(p.num_heads) * p.head_dim;
  const int64_t width = q_width + 2 * static_cast<int64_t>(p.num_kv_heads) * p.head_dim;
  MOED_CHECK(p.head_dim > 0 && p.head_dim % 2 == 0 && p.num_kv_heads > 0);
  MOED_CHECK(HasShape(p.qkv, p.qkv.rows, width, DType::kF32));
  MOED_CHECK(HasShape(p.q_out, p.qkv.rows, q_width, activation_dtype()));
  MOED_CHECK(cache.dtype == DType::kBF16 || cache.dtype == DType::kF32);
  MOED_CHECK(cache.block_size > 0);
  cpu::PrepareQkv(*context_, p, cache);
}

void CpuBackend::Attention(const AttentionParams& p) {
  MOED_CHECK(p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0 && p.batch != nullptr);
  MOED_CHECK(HasShape(p.q, p.q.rows, int64_t{p.num_heads} * p.head_dim, activation_dtype()));
  MOED_CHECK(HasShape(p.out, p.q.rows, p.q.cols, activation_dtype()));
  MOED_CHECK(p.cache.dtype == DType::kBF16 || p.cache.dtype == DType::kF32);
  MOED_CHECK(p.cache.block_size > 0);
  cpu::Attention(*context_, p);
}

void CpuBackend::Route(const RouteParams& p) {
  MOED_CHECK(HasShape(p.logits, p.logits.rows, p.logits.cols, DType::kF32));
  MOED_CHECK(p.top_k >= 1 && p.top_k <= p.logits.cols);
  cpu::Route(*context_, p);
}

void CpuBackend::PlanExperts(const PlanExpertsParams& p) {
  MOED_CHECK(p.top_k >= 1 && p.num_tokens <= INT32_MAX / p.top_k && p.num_slots >= 1);
  cpu::PlanExperts(p);
}

void CpuBackend::LocateRows(const LocateRowsParams& p) {
  for (int64_t i = 0; i < p.num_tokens * p.top_k; ++i) {
    p.row_of[i] =
        static_cast<int32_t>(int64_t{p.block_of_expert[p.topk_ids[i]]} * p.block_rows + i);
  }
}

void CpuBackend::GatherRows(const GatherRowsParams& p) {
  MOED_CHECK(HasShape(p.out, p.out.rows, p.src.cols, p.src.dtype));
  cpu::GatherRows(*context_, p);
}

void CpuBackend::ExpertsGateUp(const ExpertsGateUpParams& params) {
  ExpertsGateUpParams p = params;
  const ExpertWeights& e = *p.experts;
  MOED_CHECK(HasShape(p.x, p.x.rows, e.hidden_size(), activation_dtype()));
  MOED_CHECK(HasShape(p.out, p.out.rows, e.intermediate_size(), activation_dtype()));
  if (p.backend_offsets != nullptr) p.expert_offsets = {p.backend_offsets, OffsetCount(e)};
  MOED_CHECK(AreOffsets(p.expert_offsets, e.num_experts(), p.out.rows));
  MOED_CHECK(p.x_row != nullptr || p.x.rows >= p.expert_offsets.back());
  for (int32_t i = 0; p.x_row != nullptr && i < p.expert_offsets.back(); ++i) {
    MOED_CHECK(p.x_row[i] >= 0 && p.x_row[i] < p.x.rows);
  }
  cpu::ExpertsGateUp(*context_, p);
}

void CpuBackend::ExpertsDown(const ExpertsDownParams& params) {
  ExpertsDownParams p = params;
  const ExpertWeights& e = *p.experts;
  MOED_CHECK(HasShape(p.x, p.x.rows, e.intermediate_size(), activation_dtype()));
  MOED_CHECK(HasShape(p.out, p.out.rows, e.hidden_size(), activation_dtype()));
  if (p.backend_offsets != nullptr) p.expert_offsets = {p.backend_offsets, OffsetCount(e)};
  MOED_CHECK(AreOffsets(p.expert_offsets, e.num_experts(), p.x.rows));
  MOED_CHECK(p.out_row != nullptr || p.out.rows >= p.expert_offsets.back());
  for (int32_t i = 0; p.out_row != nullptr && i < p.expert_offsets.back(); ++i) {
    MOED_CHECK(p.out_row[i] >= 0 && p.out_row[i] < p.out.rows);
  }
  cpu::ExpertsDown(*context_, p);
}

void CpuBackend::Combine(const CombineParams& p) {
  MOED_CHECK(HasShape(p.hidden, p.hidden.rows, p.rows.cols, DType::kF32));
  MOED_CHECK(p.rows.dtype == activation_dtype());
  cpu::Combine(*context_, p);
}

void CpuBackend::AddRows(const AddRowsParams& p) {
  MOED_CHECK(HasShape(p.hidden, p.rows.rows, p.rows.cols, DType::kF32));
  MOED_CHECK(p.rows.dtype == activation_dtype());
  cpu::AddRows(*context_, p);
}

void CpuBackend::Sample(const SampleParams& p) {
  const size_t rows = static_cast<size_t>(p.logits.rows);
  MOED_CHECK(HasShape(p.logits, p.logits.rows, p.logits.cols, DType::kF32));
  MOED_CHECK(p.rows.size() == rows && p.out.size() == rows);
  MOED_CHECK(p.num_valid_tokens >= 1 && p.num_valid_tokens <= p.logits.cols);
  cpu::Sample(*context_, p);
}

}  // namespace moed::kernels::cpu
