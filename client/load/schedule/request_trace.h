#pragma once

#include <cstdint>
#include <istream>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moed::load {

/// One recorded request.
struct TraceRequest {
  double seconds = 0;  // since the first one of the trace
  int64_t num_prompt_tokens = 0;
  int64_t num_output_tokens = 0;
  std::vector<int64_t> block_hashes;  // of blocks of kTraceBlockTokens, when the trace has them
};

inline constexpr int64_t kTraceBlockTokens = 512;  // of Mooncake's hash_ids

enum class TraceFormat : uint8_t {
  kMooncake,  // JSON lines: timestamp (ms), input_length, output_length, hash_ids
  kAzure,     // CSV: TIMESTAMP,ContextTokens,GeneratedTokens
  kBurstGpt,  // CSV: Timestamp (s),Model,Request tokens,Response tokens,Total tokens,Log Type
};

/// "mooncake", "azure" or "burstgpt"; INVALID_ARGUMENT for others.
absl::StatusOr<TraceFormat> ParseTraceFormat(absl::string_view name);

struct RequestTrace {
  std::vector<TraceRequest> requests;  // in order of time, the first at 0
  int64_t num_skipped = 0;             // recorded failures: no prompt or no answer
};

/// Reads a trace. INVALID_ARGUMENT names the line that is wrong, as "NAME:LINE: ...".
absl::StatusOr<RequestTrace> ReadTrace(std::istream& in, TraceFormat format,
                                       const std::string& name);

/// The format that the first line of a trace shows; INVALID_ARGUMENT when it is none of them.
/// Leaves `in` at its beginning.
absl::StatusOr<TraceFormat> DetectTraceFormat(std::istream& in, const std::string& name);

}  // namespace moed::load
