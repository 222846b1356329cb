#include "engine/rpc/conversion.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

template <typename Repeated>
std::vector<int32_t> ToVector(const Repeated& values) {
  return {values.begin(), values.end()};
}

template <typename Repeated>
void CopyTo(const std::vector<int32_t>& values, Repeated* out) {
  out->Reserve(static_cast<int>(values.size()));
  for (const int32_t value : values) out->AddAlreadyReserved(value);
}

absl::StatusOr<DType> ParseDType(const std::string& name, const char* field) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    if (name == Name(dtype)) return dtype;
  }
  return absl::InvalidArgumentError(absl::StrCat("configuring the engine: ", field, " is \"", name,
                                                 "\", which is no float type"));
}

struct NamedFormat {
  std::string_view name;
  kernels::WeightFormat format;
};

constexpr NamedFormat kWeightFormats[] = {{"stored", kernels::WeightFormat::kStored},
                                          {"int8", kernels::WeightFormat::kInt8},
                                          {"int4", kernels::WeightFormat::kInt4}};

std::string NameOf(kernels::WeightFormat format) {
  for (const NamedFormat& named : kWeightFormats) {
    if (named.format == format) return std::string(named.name);
  }
  return "";
}

absl::StatusOr<kernels::WeightFormat> ParseWeightFormat(const std::string& name) {
  for (const NamedFormat& named : kWeightFormats) {
    if (named.name == name) return named.format;
  }
  return absl::InvalidArgumentError(absl::StrCat("configuring the engine: weight_format is \"",
                                                 name, "\", expected stored, int8 or int4"));
}

absl::StatusOr<kernels::Numerics> ParseNumerics(const std::string& name) {
  for (const auto numerics : {kernels::Numerics::kInvariant, kernels::Numerics::kFast}) {
    if (name == Name(numerics)) return numerics;
  }
  return absl::InvalidArgumentError(absl::StrCat("configuring the engine: numerics is \"", name,
                                                 "\", expected invariant or fast"));
}

void ToProto(const SamplingParams& params, engine::v1::SamplingParams* out) {
  out->set_temperature(params.temperature);
  out->set_top_k(params.top_k);
  out->set_top_p(params.top_p);
  out->set_min_p(params.min_p);
  out->set_presence_penalty(params.presence_penalty);
  out->set_frequency_penalty(params.frequency_penalty);
  out->set_repetition_penalty(params.repetition_penalty);
  for (const auto& [token_id, bias] : params.logit_bias) {
    engine::v1::LogitBias* item = out->add_logit_bias();
    item->set_token_id(token_id);
    item->set_bias(bias);
  }
  CopyTo(params.allowed_token_ids, out->mutable_allowed_token_ids());
  out->set_seed(params.seed);
  out->set_num_top_logprobs(params.num_top_logprobs);
}

SamplingParams FromProto(const engine::v1::SamplingParams& params) {
  SamplingParams out;
  out.temperature = params.temperature();
  out.top_k = params.top_k();
  out.top_p = params.top_p();
  out.min_p = params.min_p();
  out.presence_penalty = params.presence_penalty();
  out.frequency_penalty = params.frequency_penalty();
  out.repetition_penalty = params.repetition_penalty();
  out.logit_bias.reserve(params.logit_bias_size());
  for (const auto& item : params.logit_bias()) {
    out.logit_bias.emplace_back(item.token_id(), item.bias());
  }
  out.allowed_token_ids = ToVector(params.allowed_token_ids());
  out.seed = params.seed();
  out.num_top_logprobs = params.num_top_logprobs();
  return out;
}

void ToProto(const SampleRequest& sample, engine::v1::SampleRequest* out) {
  ToProto(sample.params, out->mutable_params());
  out->set_sequence_index(sample.sequence_index);
  out->set_position(sample.position);
  const int num_counts = static_cast<int>(sample.token_counts.size());
  out->mutable_count_token_ids()->Reserve(num_counts);
  out->mutable_counts_in_prompt()->Reserve(num_counts);
  out->mutable_counts_in_output()->Reserve(num_counts);
  for (const TokenCount& count : sample.token_counts) {
    out->mutable_count_token_ids()->AddAlreadyReserved(count.token_id);
    out->mutable_counts_in_prompt()->AddAlreadyReserved(count.num_in_prompt);
    out->mutable_counts_in_output()->AddAlreadyReserved(count.num_in_output);
  }
  CopyTo(sample.banned_token_ids, out->mutable_banned_token_ids());
}

SampleRequest FromProto(const engine::v1::SampleRequest& sample) {
  SampleRequest out;
  out.params = FromProto(sample.params());
  out.sequence_index = sample.sequence_index();
  out.position = sample.position();
  const int num_counts = std::min({sample.count_token_ids_size(), sample.counts_in_prompt_size(),
                                   sample.counts_in_output_size()});
  out.token_counts.reserve(static_cast<size_t>(num_counts));
  for (int i = 0; i < num_counts; ++i) {
    out.token_counts.push_back({.token_id = sample.count_token_ids(i),
                                .num_in_prompt = sample.counts_in_prompt(i),
                                .num_in_output = sample.counts_in_output(i)});
  }
  out.banned_token_ids = ToVector(sample.banned_token_ids());
  return out;
}

void ToProto(const Slice& slice, engine::v1::Slice* out) {
  out->set_sequence_id(slice.sequence_id);
  out->set_start_position(slice.start_position);
  CopyTo(slice.token_ids, out->mutable_token_ids());
  CopyTo(slice.block_table, out->mutable_block_table());
  if (slice.sample.has_value()) ToProto(*slice.sample, out->mutable_sample());
}

Slice FromProto(const engine::v1::Slice& slice) {
  Slice out;
  out.sequence_id = slice.sequence_id();
  out.start_position = slice.start_position();
  out.token_ids = ToVector(slice.token_ids());
  out.block_table = ToVector(slice.block_table());
  if (slice.has_sample()) out.sample = FromProto(slice.sample());
  return out;
}

void ToProto(const SampledToken& token, engine::v1::SampledToken* out) {
  out->set_sequence_id(token.sequence_id);
  out->set_token_id(token.token_id);
  out->set_logprob(token.logprob);
  for (const TokenLogprob& top : token.top_logprobs) {
    engine::v1::TokenLogprob* item = out->add_top_logprobs();
    item->set_token_id(top.token_id);
    item->set_logprob(top.logprob);
  }
}

SampledToken FromProto(const engine::v1::SampledToken& token) {
  SampledToken out;
  out.sequence_id = token.sequence_id();
  out.token_id = token.token_id();
  out.logprob = token.logprob();
  for (const auto& top : token.top_logprobs()) {
    out.top_logprobs.push_back({.token_id = top.token_id(), .logprob = top.logprob()});
  }
  return out;
}

void ToProto(const StepTimes& times, engine::v1::StepTimes* out) {
  out->set_attention(times.attention);
  out->set_attention_kv(times.attention_kv);
  out->set_route(times.route);
  out->set_dispatch(times.dispatch);
  out->set_dispatch_wait(times.dispatch_wait);
  out->set_experts(times.experts);
  out->set_combine(times.combine);
  out->set_combine_wait(times.combine_wait);
  out->set_head(times.head);
  out->set_sampling(times.sampling);
  out->set_total(times.total);
}

StepTimes FromProto(const engine::v1::StepTimes& times) {
  return {.attention = times.attention(),
          .attention_kv = times.attention_kv(),
          .route = times.route(),
          .dispatch = times.dispatch(),
          .dispatch_wait = times.dispatch_wait(),
          .experts = times.experts(),
          .combine = times.combine(),
          .combine_wait = times.combine_wait(),
          .head = times.head(),
          .sampling = times.sampling(),
          .total = times.total()};
}

absl::Status CheckConfigure(const engine::v1::ConfigureRequest& request,
                            const ExpertPlacement& placement) {
  if (request.rank() < 0 || request.rank() >= placement.num_ranks) {
    return absl::InvalidArgumentError(absl::StrCat("configuring the engine: rank is ",
                                                   request.rank(), ", but the placement has ",
                                                   placement.num_ranks, " ranks"));
  }
  return placement.Validate();
}

void CopyLimits(const engine::v1::ConfigureRequest& request, EngineConfig& out) {
  out.num_threads = request.num_threads();
  out.cpus = ToVector(request.cpus());
  out.block_size = request.block_size();
  out.num_blocks = request.num_blocks();
  out.max_tokens_per_step = request.max_tokens_per_step();
  out.max_sequences_per_step = request.max_sequences_per_step();
  out.max_model_len = request.max_model_len();
  out.num_valid_tokens = request.num_valid_tokens();
  out.exchange_timeout = absl::Seconds(request.exchange_timeout_seconds());
  out.max_exchange_bytes_per_rank = request.max_exchange_bytes_per_rank();
}

}  // namespace

engine::v1::ConfigureRequest ToProto(const EngineConfig& config) {
  engine::v1::ConfigureRequest out;
  out.set_protocol_version(kEngineProtocolVersion);
  out.set_model_dir(config.model_dir);
  out.set_dummy_weights(config.dummy_weights);
  out.set_dummy_seed(config.dummy_seed);
  out.set_model_config_json(config.model_config_json);
  out.set_rank(config.rank);
  *out.mutable_placement() = ToProto(config.placement);
  out.set_device(config.device);
  out.set_activation_dtype(std::string(Name(config.activation_dtype)));
  out.set_weight_format(NameOf(config.weight_format));
  out.set_numerics(std::string(Name(config.numerics)));
  out.set_kv_dtype(std::string(Name(config.kv_dtype)));
  out.set_num_threads(config.num_threads);
  CopyTo(config.cpus, out.mutable_cpus());
  out.set_instruction_set(config.instruction_set);
  out.set_block_size(config.block_size);
  out.set_num_blocks(config.num_blocks);
  out.set_max_tokens_per_step(config.max_tokens_per_step);
  out.set_max_sequences_per_step(config.max_sequences_per_step);
  out.set_max_model_len(config.max_model_len);
  out.set_num_valid_tokens(config.num_valid_tokens);
  out.set_exchange_timeout_seconds(absl::ToDoubleSeconds(config.exchange_timeout));
  out.set_max_exchange_bytes_per_rank(config.max_exchange_bytes_per_rank);
  out.set_nccl_library(config.nccl_library);
  out.set_exchange(std::string(Name(config.exchange)));
  return out;
}

absl::StatusOr<EngineConfig> FromProto(const engine::v1::ConfigureRequest& request) {
  if (request.protocol_version() != kEngineProtocolVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "configuring the engine: it speaks protocol version ", kEngineProtocolVersion,
        ", the daemon ", request.protocol_version(), "; both must come from the same build"));
  }
  EngineConfig out;
  out.placement = FromProto(request.placement());
  MOED_RETURN_IF_ERROR(CheckConfigure(request, out.placement));
  MOED_ASSIGN_OR_RETURN(out.activation_dtype,
                        ParseDType(request.activation_dtype(), "activation_dtype"));
  MOED_ASSIGN_OR_RETURN(out.weight_format, ParseWeightFormat(request.weight_format()));
  MOED_ASSIGN_OR_RETURN(out.numerics, ParseNumerics(request.numerics()));
  MOED_ASSIGN_OR_RETURN(out.kv_dtype, ParseDType(request.kv_dtype(), "kv_dtype"));
  out.model_dir = request.model_dir();
  out.model_config_json = request.model_config_json();
  out.dummy_weights = request.dummy_weights();
  out.dummy_seed = request.dummy_seed();
  out.rank = request.rank();
  out.device = request.device();
  out.instruction_set = request.instruction_set();
  out.nccl_library = request.nccl_library();
  MOED_ASSIGN_OR_RETURN(out.exchange, ParseExchangeStrategy(request.exchange()));
  CopyLimits(request, out);
  return out;
}

engine::v1::ExpertPlacement ToProto(const ExpertPlacement& placement) {
  engine::v1::ExpertPlacement out;
  out.set_epoch(placement.epoch);
  out.set_num_ranks(placement.num_ranks);
  out.set_num_experts(placement.num_experts);
  for (const ExpertPlacement::Layer& layer : placement.layers) {
    engine::v1::PlacementLayer* item = out.add_layers();
    CopyTo(layer.slot_to_expert, item->mutable_slot_to_expert());
    CopyTo(layer.rank_slot_begin, item->mutable_rank_slot_begin());
  }
  return out;
}

ExpertPlacement FromProto(const engine::v1::ExpertPlacement& placement) {
  ExpertPlacement out;
  out.epoch = placement.epoch();
  out.num_ranks = placement.num_ranks();
  out.num_experts = placement.num_experts();
  out.layers.reserve(placement.layers_size());
  for (const auto& layer : placement.layers()) {
    out.layers.push_back({.slot_to_expert = ToVector(layer.slot_to_expert()),
                          .rank_slot_begin = ToVector(layer.rank_slot_begin())});
  }
  return out;
}

engine::v1::EngineInfo ToProto(const EngineInfo& info) {
  engine::v1::EngineInfo out;
  out.set_rank(info.rank);
  out.set_num_ranks(info.num_ranks);
  out.set_device(info.device);
  out.set_instruction_set(info.instruction_set);
  out.set_dtype(info.dtype);
  out.set_num_threads(info.num_threads);
  out.set_block_size(info.block_size);
  out.set_num_blocks(info.num_blocks);
  out.set_max_tokens_per_step(info.max_tokens_per_step);
  out.set_max_sequences_per_step(info.max_sequences_per_step);
  out.set_weight_bytes(info.weight_bytes);
  out.set_kv_bytes(info.kv_bytes);
  out.set_exchange_bytes(info.exchange_bytes);
  out.set_workspace_bytes(info.workspace_bytes);
  return out;
}

EngineInfo FromProto(const engine::v1::EngineInfo& info) {
  return {.rank = info.rank(),
          .num_ranks = info.num_ranks(),
          .device = info.device(),
          .instruction_set = info.instruction_set(),
          .dtype = info.dtype(),
          .num_threads = info.num_threads(),
          .block_size = info.block_size(),
          .num_blocks = info.num_blocks(),
          .max_tokens_per_step = info.max_tokens_per_step(),
          .max_sequences_per_step = info.max_sequences_per_step(),
          .weight_bytes = info.weight_bytes(),
          .kv_bytes = info.kv_bytes(),
          .exchange_bytes = info.exchange_bytes(),
          .workspace_bytes = info.workspace_bytes()};
}

engine::v1::StepPlan ToProto(const StepPlan& plan) {
  engine::v1::StepPlan out;
  out.set_step_id(plan.step_id);
  out.set_placement_epoch(plan.placement_epoch);
  CopyTo(plan.num_tokens_per_rank, out.mutable_num_tokens_per_rank());
  out.mutable_slices()->Reserve(static_cast<int>(plan.slices.size()));
  for (const Slice& slice : plan.slices) ToProto(slice, out.add_slices());
  return out;
}

StepPlan FromProto(const engine::v1::StepPlan& plan) {
  StepPlan out;
  out.step_id = plan.step_id();
  out.placement_epoch = plan.placement_epoch();
  out.num_tokens_per_rank = ToVector(plan.num_tokens_per_rank());
  out.slices.reserve(plan.slices_size());
  for (const auto& slice : plan.slices()) out.slices.push_back(FromProto(slice));
  return out;
}

engine::v1::StepResult ToProto(const StepResult& result) {
  engine::v1::StepResult out;
  out.set_step_id(result.step_id);
  for (const SampledToken& token : result.sampled) ToProto(token, out.add_sampled());
  ToProto(result.times, out.mutable_times());
  out.set_num_expert_rows(result.num_expert_rows);
  out.set_dispatch_bytes(result.dispatch_bytes);
  out.set_combine_bytes(result.combine_bytes);
  CopyTo(result.tokens_per_expert, out.mutable_tokens_per_expert());
  return out;
}

StepResult FromProto(const engine::v1::StepResult& result) {
  StepResult out;
  out.step_id = result.step_id();
  out.sampled.reserve(result.sampled_size());
  for (const auto& token : result.sampled()) out.sampled.push_back(FromProto(token));
  out.times = FromProto(result.times());
  out.num_expert_rows = result.num_expert_rows();
  out.dispatch_bytes = result.dispatch_bytes();
  out.combine_bytes = result.combine_bytes();
  out.tokens_per_expert = ToVector(result.tokens_per_expert());
  return out;
}

}  // namespace moed
