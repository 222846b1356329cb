#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cuda/ops.h"
#include "kernels/params.h"

namespace moed::kernels::cuda {

/// A part of SampleLists::ids, and of values where the list has them.
struct ListRange {
  int32_t begin = 0;
  int32_t count = 0;
};

/// A SampleRow as the device wants it.
struct SampleRequest {
  double uniform = 0;  // the row's draw, in [0, 1)
  float inverse_temperature = 1.0f;
  float top_p = 1.0f;
  float min_p = 0;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1.0f;
  int32_t is_greedy = 0;
  int32_t top_k = 0;  // 0 = off
  int32_t num_top_logprobs = -1;
  ListRange bias, allowed, banned, counted;  // values: the bias; the counts in the output
};

/// The rows' requests, and all their lists one behind the other. Plain host data.
struct SampleLists {
  std::vector<SampleRequest> requests;
  std::vector<int32_t> ids;
  std::vector<float> values;     // beside ids
  int32_t num_top_logprobs = 0;  // the most that a row wants
};
SampleLists MakeSampleLists(std::span<const SampleRow> rows, int32_t num_valid_tokens);

struct SampledToken {
  int32_t token_id = 0;
  float logprob = 0;
};

struct TokenLogprob {
  int32_t token_id = 0;
  float logprob = 0;
};

/// What the device found, as outputs: tokens [S], top [S, lists.num_top_logprobs].
void ReadSamples(const SampleLists& lists, std::span<const SampledToken> tokens,
                 std::span<const TokenLogprob> top, std::span<SampleOutput> out);

/// Device memory of one call. S rows of V logits.
struct SampleArrays {
  const float* logits = nullptr;  // [S, logits_stride]
  int64_t logits_stride = 0;
  int32_t num_valid_tokens = 0;
  const SampleRequest* requests = nullptr;  // [S]
  const int32_t* ids = nullptr;
  const float* values = nullptr;
  float* weights = nullptr;              // scratch [S, num_valid_tokens]
  SampledToken* tokens = nullptr;        // [S]
  TokenLogprob* top_logprobs = nullptr;  // [S, num_top_logprobs]
  int32_t num_top_logprobs = 0;
};

/// Chooses a token for each row, as kernels/sampling_math.h says; see sampling.cu for the one
/// difference.
cudaError_t Sample(const Device& device, const SampleArrays& arrays, int64_t num_rows);

}  // namespace moed::kernels::cuda
