#include "engine/bench/step_work.h"

#include <algorithm>
#include <utility>

#include "engine/bench/bench_summary.h"
#include "engine/weights/format_rule.h"

namespace moed {
namespace {

using kernels::WeightFormat;

/// Bytes and operations of matrices, as one model keeps them.
class MatrixCounter {
 public:
  explicit MatrixCounter(const WorkModel& model)
      : rule_{.asked = model.dtype.weights, .tied_embedding = model.config.tie_word_embeddings},
        model_(model) {}

  double Bytes(WeightRole role, int64_t rows, int64_t cols) const {
    const MatrixRef ref{.role = role, .rows = rows, .cols = cols};
    return static_cast<double>(rule_.Bytes(ref, model_.stored_dtype).value_or(0));
  }

  /// gate and up [width, hidden], down [hidden, width]
  double MlpBytes(int64_t width) const {
    const int64_t hidden = model_.config.hidden_size;
    return 2 * Bytes(WeightRole::kInput, width, hidden) + Bytes(WeightRole::kOutput, hidden, width);
  }

  Arithmetic ArithmeticOf(WeightRole role) const {
    if (rule_.Of(role) != WeightFormat::kStored) return Arithmetic::kInt8;
    return model_.dtype.activation == DType::kF32 ? Arithmetic::kF32 : Arithmetic::kBf16;
  }

 private:
  const FormatRule rule_;
  const WorkModel& model_;
};

/// Operations of one row times a matrix [rows, cols].
double RowOperations(int64_t rows, int64_t cols) {
  return 2 * static_cast<double>(rows) * static_cast<double>(cols);
}

StageWork Projections(const WorkModel& model, const StepLoad& load) {
  const MatrixCounter count(model);
  const ModelConfig& config = model.config;
  const int64_t q = config.num_heads * config.head_dim;
  const int64_t qkv = q + 2 * config.num_kv_heads * config.head_dim;
  const double layers = static_cast<double>(config.num_layers);
  const double bytes = count.Bytes(WeightRole::kInput, qkv, config.hidden_size) +
                       count.Bytes(WeightRole::kOutput, config.hidden_size, q);
  return {.stage = "projections",
          .bytes = layers * bytes * static_cast<double>(load.num_working_ranks),
          .operations = layers * RowOperations(qkv + q, config.hidden_size) *
                        static_cast<double>(load.num_tokens()),
          .arithmetic = count.ArithmeticOf(WeightRole::kInput)};
}

StageWork AttentionOverKv(const WorkModel& model, const StepLoad& load) {
  const ModelConfig& config = model.config;
  const double layers = static_cast<double>(config.num_layers);
  const double kv_elements = 2 * static_cast<double>(config.num_kv_heads * config.head_dim);
  const double q_elements = static_cast<double>(config.num_heads * config.head_dim);
  return {
      .stage = "attention",
      .bytes = layers * kv_elements * static_cast<double>(load.num_kv_positions) *
               static_cast<double>(SizeBytes(model.dtype.activation)),
      .operations = layers * 4 * q_elements * static_cast<double>(load.num_attention_pairs),
      .arithmetic = model.dtype.activation == DType::kF32 ? Arithmetic::kF32 : Arithmetic::kBf16};
}

StageWork Route(const WorkModel& model, const StepLoad& load) {
  const MatrixCounter count(model);
  const ModelConfig& config = model.config;
  const double layers = static_cast<double>(config.num_moe_layers());
  return {.stage = "route",
          .bytes = layers *
                   count.Bytes(WeightRole::kRouter, config.num_experts, config.hidden_size) *
                   static_cast<double>(load.num_working_ranks),
          .operations = layers * RowOperations(config.num_experts, config.hidden_size) *
                        static_cast<double>(load.num_tokens()),
          .arithmetic = count.ArithmeticOf(WeightRole::kRouter)};
}

StageWork Experts(const WorkModel& model, const TestSample& sample) {
  const MatrixCounter count(model);
  const ModelConfig& config = model.config;
  const double moe_layers = static_cast<double>(config.num_moe_layers());
  const double dense_layers = static_cast<double>(config.num_layers) - moe_layers;
  const double copies = static_cast<double>(sample.load.num_working_ranks);
  const double width_per_token =
      moe_layers * static_cast<double>(config.top_k * config.moe_intermediate_size +
                                       config.shared_intermediate_size) +
      dense_layers * static_cast<double>(config.dense_intermediate_size);
  return {.stage = "experts",
          .bytes = moe_layers * sample.distinct_experts * sample.num_steps *
                       count.MlpBytes(config.moe_intermediate_size) +
                   moe_layers * copies * count.MlpBytes(config.shared_intermediate_size) +
                   dense_layers * copies * count.MlpBytes(config.dense_intermediate_size),
          .operations = 6 * width_per_token * static_cast<double>(config.hidden_size) *
                        static_cast<double>(sample.load.num_tokens()),
          .arithmetic = count.ArithmeticOf(WeightRole::kInput)};
}

StageWork Head(const WorkModel& model, const StepLoad& load) {
  const MatrixCounter count(model);
  const ModelConfig& config = model.config;
  const WeightRole role = config.tie_word_embeddings ? WeightRole::kEmbedding : WeightRole::kHead;
  return {.stage = "head",
          .bytes = count.Bytes(role, config.vocab_size, config.hidden_size) *
                   static_cast<double>(load.num_sampling_ranks),
          .operations = RowOperations(config.vocab_size, config.hidden_size) *
                        static_cast<double>(load.num_sampled),
          .arithmetic = count.ArithmeticOf(role)};
}

/// With the streaming read of the time of the samples.
MachineCeilings AtTheTime(MachineCeilings ceilings, const std::vector<TestSample>& samples) {
  const double read =
      SpreadOver(samples, [](const TestSample& s) { return s.read_bytes_per_s; }).median;
  if (read > 0) ceilings.read_bytes_per_s = read;
  return ceilings;
}

double OperationsPerSecond(const MachineCeilings& ceilings, Arithmetic arithmetic) {
  if (arithmetic == Arithmetic::kInt8 && ceilings.int8_ops_per_s > 0) {
    return ceilings.int8_ops_per_s;
  }
  if (arithmetic != Arithmetic::kF32 && ceilings.bf16_ops_per_s > 0) {
    return ceilings.bf16_ops_per_s;
  }
  return ceilings.f32_ops_per_s;
}

/// Adds the shares of one stage to `rate`, whose time is set.
void AddShares(const StageWork& work, const MachineCeilings& ceilings, StageRate& rate) {
  if (ceilings.num_threads == 0 || rate.ms <= 0) return;
  const double read_ms = 1e3 * work.bytes / ceilings.read_bytes_per_s;
  const double arithmetic_ms =
      1e3 * work.operations / OperationsPerSecond(ceilings, work.arithmetic);
  rate.read_share += read_ms / rate.ms;
  rate.arithmetic_share += arithmetic_ms / rate.ms;
  rate.bound_share += std::max(read_ms, arithmetic_ms) / rate.ms;
}

}  // namespace

std::vector<StageWork> WorkOfStep(const WorkModel& model, const TestSample& sample) {
  std::vector<StageWork> stages = {Projections(model, sample.load),
                                   AttentionOverKv(model, sample.load), Route(model, sample.load),
                                   Experts(model, sample), Head(model, sample.load)};
  for (StageWork& stage : stages) {
    stage.bytes /= sample.num_steps;
    stage.operations /= sample.num_steps;
  }
  return stages;
}

std::vector<StageRate> RatesOf(const WorkModel& model, const std::vector<TestSample>& samples,
                               const MachineCeilings& measured) {
  const MachineCeilings ceilings = AtTheTime(measured, samples);
  const std::vector<std::pair<std::string, double>> stage_ms = StageMs(samples);
  StageRate total{.work = {.stage = "total"}, .ms = stage_ms.back().second};
  std::vector<StageRate> rates;
  for (const StageWork& work : WorkOfStep(model, samples.front())) {
    const auto named = std::find_if(stage_ms.begin(), stage_ms.end(),
                                    [&](const auto& entry) { return entry.first == work.stage; });
    StageRate rate{.work = work, .ms = named->second};
    AddShares(work, ceilings, rate);
    AddShares(work, ceilings, total);
    total.work.bytes += work.bytes;
    total.work.operations += work.operations;
    rates.push_back(std::move(rate));
  }
  rates.push_back(std::move(total));
  return rates;
}

}  // namespace moed
