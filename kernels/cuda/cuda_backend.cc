#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "config/base/check.h"
#include "config/base/status_macros.h"
#include "kernels/check_params.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/device_weights.h"
#include "kernels/cuda/gemm.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/sampling.h"

namespace moed::kernels::cuda {
namespace {

int64_t MostRows(std::span<const int32_t> offsets) {
  int64_t most = 0;
  for (size_t i = 1; i < offsets.size(); ++i) {
    most = std::max<int64_t>(most, offsets[i] - offsets[i - 1]);
  }
  return most;
}

template <typename T>
std::span<const T> Span(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const BackendOptions& options) {
  absl::string_view index_text = options.device;
  int index = 0;
  if (!absl::ConsumePrefix(&index_text, "cuda:") || !absl::SimpleAtoi(index_text, &index)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "creating a CUDA backend: expected device \"cuda:N\", got \"", options.device, "\""));
  }
  if (options.activation_dtype != DType::kBF16) {
    return absl::InvalidArgumentError(
        absl::StrCat("creating a CUDA backend: activations are bf16, not ",
                     std::string(Name(options.activation_dtype))));
  }
  MOED_ASSIGN_OR_RETURN(auto context, CudaContext::Create(index));
  std::unique_ptr<FastGemm> fast_gemm;
  if (options.numerics == Numerics::kFast) {
    MOED_ASSIGN_OR_RETURN(fast_gemm, FastGemm::Create(*context));
  }
  return std::make_unique<CudaBackend>(std::move(context), std::move(fast_gemm));
}

std::string CudaBackend::device() const { return absl::StrCat("cuda:", context_->device_index()); }

absl::Status CudaBackend::CheckHeadDim(int64_t head_dim) const {
  if (head_dim >= 1 && head_dim <= kMaxHeadDim) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("attention on ", device(), ": heads of ", head_dim,
                                               " elements, expected at most ", kMaxHeadDim));
}

absl::StatusOr<Buffer> CudaBackend::Allocate(int64_t bytes) {
  const std::string what = absl::StrCat("allocating ", bytes, " bytes on ", device());
  if (bytes < 0 || bytes > (int64_t{1} << 46)) return absl::InvalidArgumentError(what);
  if (bytes == 0) return Buffer(this, nullptr, 0);
  const cudaStream_t stream = context_->Begin().stream;
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // it is reported here, and must not be found again later
    return absl::ResourceExhaustedError(absl::StrCat(what, ": there is not enough"));
  }
  context_->Keep(error, "allocating memory");
  if (context_->failed()) return context_->Synchronize();
  Buffer buffer(this, memory, bytes);
  context_->Keep(cudaMemsetAsync(memory, 0, static_cast<size_t>(bytes), stream), "clearing memory");
  return buffer;
}

void CudaBackend::Free(void* data, int64_t) {
  // An op may still use it.
  context_->Keep(cudaStreamSynchronize(context_->Begin().stream), "waiting before memory is freed");
  context_->Keep(cudaFree(data), "freeing memory");
}

void CudaBackend::CopyToDevice(void* device, const void* host, int64_t bytes) {
  context_->CopyToDevice(device, host, bytes);
}

void CudaBackend::CopyToHost(void* host, const void* device, int64_t bytes) {
  if (bytes == 0) return;
  if (!context_->failed()) {
    context_->Keep(cudaMemcpyAsync(host, device, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost,
                                   context_->Begin().stream),
                   "copying to the host");
    context_->Keep(cudaStreamSynchronize(context_->Begin().stream), "copying to the host");
  }
  if (context_->failed()) std::memset(host, 0, static_cast<size_t>(bytes));
}

absl::StatusOr<std::unique_ptr<LinearWeights>> CudaBackend::LoadLinear(
    std::span<const HostMatrix> stacked, std::span<const float> bias, WeightFormat format) {
  return cuda::LoadLinear({*this, *context_}, stacked, bias, format);
}

absl::StatusOr<std::unique_ptr<ExpertWeights>> CudaBackend::LoadExperts(
    std::span<const ExpertSource> experts, WeightFormat format) {
  return cuda::LoadExperts({*this, *context_}, experts, format);
}

absl::Status CudaBackend::RunStep(const StepParams& params, absl::FunctionRef<absl::Status()> ops) {
  if (params.attention != nullptr && step_attention_.Begin(params)) recorded_steps_.Clear();
  const absl::Status status =
      params.recording_id > 0 ? recorded_steps_.Run(params.recording_id, ops) : ops();
  step_attention_.End();
  return status;
}

void CudaBackend::EmbedTokens(const LinearWeights& table, const int32_t* ids, float scale,
                              TensorView hidden) {
  MOED_CHECK(HasShape(hidden, hidden.rows, table.in_features(), DType::kF32));
  if (context_->failed()) return;
  const DeviceMatrix& matrix = static_cast<const CudaLinear&>(table).matrix();
  context_->Keep(cuda::EmbedTokens(context_->Begin(), matrix, ids, scale, hidden), "EmbedTokens");
}

void CudaBackend::RmsNorm(TensorView x, const float* weight, float eps, TensorView out) {
  MOED_CHECK(HasShape(x, x.rows, x.cols, DType::kF32));
  MOED_CHECK(HasShape(out, x.rows, x.cols, DType::kBF16));
  if (context_->failed()) return;
  context_->Keep(
      cuda::RmsNorm(context_->Begin(), {.x = x, .weight = weight, .eps = eps, .out = out}),
      "RmsNorm");
}

void CudaBackend::Linear(const LinearParams& p) {
  MOED_CHECK(HasShape(p.x, p.x.rows, p.weights->in_features(), DType::kBF16));
  MOED_CHECK(HasShape(p.out, p.x.rows, p.weights->out_features(), DType::kF32));
  MOED_CHECK(p.x.rows <= INT32_MAX);
  if (context_->failed()) return;
  const auto& weights = static_cast<const CudaLinear&>(*p.weights);
  const GemmParams gemm = {
      .x = p.x.as<uint16_t>(),
      .weights = weights.matrix(),
      .num_rows = p.x.rows,
      .max_rows_per_matrix = p.x.rows,
      .epilogue = p.accumulate ? GemmEpilogue::kAccumulate : GemmEpilogue::kStore,
      .out = p.out.data,
      .num_features = weights.out_features(),
      .bias = weights.bias(),
      .scale = p.scale};
  const int32_t offsets[] = {0, static_cast<int32_t>(p.x.rows)};
  Multiply(gemm, offsets, "Linear");
}

void CudaBackend::Multiply(const GemmParams& params, std::span<const int32_t> offsets,
                           const char* what) {
  if (fast_gemm_ != nullptr && FastGemm::Takes(params, offsets)) {
    fast_gemm_->Run(params, offsets);
  } else {
    context_->Keep(Gemm(context_->Begin(), params), what);
  }
}

void CudaBackend::PrepareQkv(const PrepareQkvParams& p, const KvCacheView& cache) {
  const int64_t q_width = static_cast<int64_t>(p.num_heads) * p.head_dim;
  const int64_t width = q_width + 2 * static_cast<int64_t>(p.num_kv_heads) * p.head_dim;
  MOED_CHECK(p.head_dim > 0 && p.head_dim % 2 == 0 && p.num_kv_heads > 0);
  MOED_CHECK(HasShape(p.qkv, p.qkv.rows, width, DType::kF32));
  MOED_CHECK(HasShape(p.q_out, p.qkv.rows, q_width, DType::kBF16));
  MOED_CHECK(cache.dtype == DType::kBF16 || cache.dtype == DType::kF32);
  MOED_CHECK(cache.block_size > 0);
  if (context_->failed()) return;
  context_->Keep(cuda::PrepareQkv(context_->Begin(), p, cache), "PrepareQkv");
}

void CudaBackend::Attention(const AttentionParams& p) {
  MOED_CHECK(p.num_kv_heads > 0 && p.num_heads % p.num_kv_heads == 0 && p.batch != nullptr);
  MOED_CHECK(HasShape(p.q, p.q.rows, int64_t{p.num_heads} * p.head_dim, DType::kBF16));
  MOED_CHECK(HasShape(p.out, p.q.rows, p.q.cols, DType::kBF16));
  MOED_CHECK(p.cache.dtype == DType::kBF16 || p.cache.dtype == DType::kF32);
  MOED_CHECK(p.cache.block_size > 0 && p.head_dim <= kMaxHeadDim);
  CheckBatch(p, INT32_MAX - kKeyPartition);
  if (step_attention_.Has(p.batch)) {
    if (context_->failed()) return;
    context_->Keep(cuda::Attention(context_->Begin(), p, step_attention_.arrays()), "Attention");
    return;
  }
  AttentionAlone(p);
}

/// Attention outside of a step: plans and uploads for itself.
void CudaBackend::AttentionAlone(const AttentionParams& p) {
  const AttentionPlan plan =
      PlanAttention(*p.batch, p.num_heads, p.num_kv_heads, context_->Begin().num_multiprocessors);
  const AttentionCounts counts = plan.counts();
  void* partials = context_->Scratch(int64_t{plan.num_partials} * p.num_kv_heads * kVectorsPerWarp *
                                     (p.head_dim + 2) * 4);
  const auto [device_counts, tables, few, many, merge] =
      context_->Upload(std::span<const AttentionCounts>(&counts, 1), p.batch->block_tables,
                       Span(plan.few), Span(plan.many), Span(plan.merge));
  if (context_->failed()) return;
  const AttentionArrays arrays = {.counts = device_counts,
                                  .most = counts,
                                  .block_tables = tables,
                                  .few = few,
                                  .many = many,
                                  .merge = merge,
                                  .partials = static_cast<float*>(partials)};
  context_->Keep(cuda::Attention(context_->Begin(), p, arrays), "Attention");
}

void CudaBackend::Route(const RouteParams& p) {
  MOED_CHECK(HasShape(p.logits, p.logits.rows, p.logits.cols, DType::kF32));
  MOED_CHECK(p.top_k >= 1 && p.top_k <= p.logits.cols);
  if (context_->failed()) return;
  context_->Keep(cuda::Route(context_->Begin(), p), "Route");
}

void CudaBackend::PlanExperts(const PlanExpertsParams& p) {
  MOED_CHECK(p.top_k >= 1 && p.num_tokens <= INT32_MAX / p.top_k && p.num_slots >= 1);
  if (context_->failed()) return;
  context_->Keep(cuda::PlanExperts(context_->Begin(), p), "PlanExperts");
}

void CudaBackend::LocateRows(const LocateRowsParams& p) {
  if (context_->failed()) return;
  context_->Keep(cuda::LocateRows(context_->Begin(), p), "LocateRows");
}

void CudaBackend::GatherRows(const GatherRowsParams& p) {
  MOED_CHECK(HasShape(p.out, p.out.rows, p.src.cols, p.src.dtype));
  if (context_->failed()) return;
  context_->Keep(cuda::GatherRows(context_->Begin(), p), "GatherRows");
}

/// The rows of each expert, wherever their offsets are. One expert has all rows: then nothing is
/// uploaded.
template <typename Params>
CudaBackend::ExpertRows CudaBackend::RowsOf(const Params& p, int64_t num_experts,
                                            int64_t max_rows) {
  if (p.backend_offsets != nullptr) return {p.backend_offsets, max_rows, p.max_rows_per_expert};
  MOED_CHECK(AreOffsets(p.expert_offsets, num_experts, max_rows));
  const int64_t num_rows = p.expert_offsets.back();
  if (num_experts == 1) return {nullptr, num_rows, num_rows};
  const auto [offsets] = context_->Upload(p.expert_offsets);
  return {offsets, num_rows, MostRows(p.expert_offsets)};
}

void CudaBackend::ExpertsGateUp(const ExpertsGateUpParams& p) {
  const auto& experts = static_cast<const CudaExperts&>(*p.experts);
  MOED_CHECK(HasShape(p.x, p.x.rows, experts.hidden_size(), DType::kBF16));
  MOED_CHECK(HasShape(p.out, p.out.rows, experts.intermediate_size(), DType::kBF16));
  const ExpertRows rows = RowsOf(p, experts.num_experts(), p.out.rows);
  MOED_CHECK(p.x_row != nullptr || p.x.rows >= rows.num_rows);
  if (context_->failed()) return;
  const GemmParams gemm = {.x = p.x.as<uint16_t>(),
                           .x_row = p.x_row,
                           .weights = experts.gate_up(),
                           .offsets = rows.offsets,
                           .num_rows = rows.num_rows,
                           .max_rows_per_matrix = rows.max_rows_per_expert,
                           .epilogue = GemmEpilogue::kSwiGlu,
                           .out = p.out.data,
                           .num_features = experts.intermediate_size()};
  Multiply(gemm, p.expert_offsets, "ExpertsGateUp");
}

void CudaBackend::ExpertsDown(const ExpertsDownParams& p) {
  const auto& experts = static_cast<const CudaExperts&>(*p.experts);
  MOED_CHECK(HasShape(p.x, p.x.rows, experts.intermediate_size(), DType::kBF16));
  MOED_CHECK(HasShape(p.out, p.out.rows, experts.hidden_size(), DType::kBF16));
  const ExpertRows rows = RowsOf(p, experts.num_experts(), p.x.rows);
  MOED_CHECK(p.out_row != nullptr || p.out.rows >= rows.num_rows);
  if (context_->failed()) return;
  const GemmParams gemm = {.x = p.x.as<uint16_t>(),
                           .weights = experts.down(),
                           .offsets = rows.offsets,
                           .num_rows = rows.num_rows,
                           .max_rows_per_matrix = rows.max_rows_per_expert,
                           .epilogue = GemmEpilogue::kRound,
                           .out = p.out.data,
                           .out_row = p.out_row,
                           .num_features = experts.hidden_size()};
  Multiply(gemm, p.expert_offsets, "ExpertsDown");
}

void CudaBackend::Combine(const CombineParams& p) {
  MOED_CHECK(HasShape(p.hidden, p.hidden.rows, p.rows.cols, DType::kF32));
  MOED_CHECK(p.rows.dtype == DType::kBF16);
  if (context_->failed()) return;
  context_->Keep(cuda::Combine(context_->Begin(), p), "Combine");
}

void CudaBackend::AddRows(const AddRowsParams& p) {
  MOED_CHECK(HasShape(p.hidden, p.rows.rows, p.rows.cols, DType::kF32));
  MOED_CHECK(p.rows.dtype == DType::kBF16);
  if (context_->failed()) return;
  context_->Keep(cuda::AddRows(context_->Begin(), p), "AddRows");
}

void CudaBackend::Sample(const SampleParams& p) {
  const size_t num_rows = static_cast<size_t>(p.logits.rows);
  MOED_CHECK(HasShape(p.logits, p.logits.rows, p.logits.cols, DType::kF32));
  MOED_CHECK(p.rows.size() == num_rows && p.out.size() == num_rows);
  MOED_CHECK(p.num_valid_tokens >= 1 && p.num_valid_tokens <= p.logits.cols);
  if (num_rows == 0) return;
  std::fill(p.out.begin(), p.out.end(), SampleOutput{});
  const SampleLists lists = MakeSampleLists(p.rows, p.num_valid_tokens);
  std::vector<SampledToken> tokens(num_rows);
  std::vector<TokenLogprob> top(num_rows * static_cast<size_t>(lists.num_top_logprobs));
  // Scratch: tokens, top logprobs, weights.
  const int64_t top_at = static_cast<int64_t>(num_rows * sizeof(SampledToken));
  const int64_t weights_at = top_at + static_cast<int64_t>(top.size() * sizeof(TokenLogprob));
  char* scratch = static_cast<char*>(context_->Scratch(
      weights_at + p.logits.rows * p.num_valid_tokens * static_cast<int64_t>(sizeof(float))));
  const auto [requests, ids, values] =
      context_->Upload(Span(lists.requests), Span(lists.ids), Span(lists.values));
  if (context_->failed()) return;
  const SampleArrays arrays = {.logits = p.logits.as<float>(),
                               .logits_stride = p.logits.cols,
                               .num_valid_tokens = p.num_valid_tokens,
                               .requests = requests,
                               .ids = ids,
                               .values = values,
                               .weights = reinterpret_cast<float*>(scratch + weights_at),
                               .tokens = reinterpret_cast<SampledToken*>(scratch),
                               .top_logprobs = reinterpret_cast<TokenLogprob*>(scratch + top_at),
                               .num_top_logprobs = lists.num_top_logprobs};
  context_->Keep(cuda::Sample(context_->Begin(), arrays, p.logits.rows), "Sample");
  CopyToHost(tokens.data(), arrays.tokens, top_at);
  CopyToHost(top.data(), arrays.top_logprobs, weights_at - top_at);
  if (!context_->failed()) ReadSamples(lists, tokens, top, p.out);
}

absl::StatusOr<int64_t> FreeDeviceBytes(const std::string& device) {
  MOED_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend,
                        CreateCudaBackend({.device = device}));
  size_t free_bytes = 0, total_bytes = 0;
  const cudaError_t error = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (error == cudaSuccess) return static_cast<int64_t>(free_bytes);
  return absl::InternalError(
      absl::StrCat("asking ", device, " for its free memory: ", cudaGetErrorString(error)));
}

}  // namespace moed::kernels::cuda
