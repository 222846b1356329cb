#include "client/load/schedule/request_trace.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "config/base/status_macros.h"

namespace moed::load {
namespace {

constexpr int64_t kMaxTokens = 1 << 24;  // of one request
constexpr size_t kMaxRequests = 20'000'000;
constexpr double kMaxSeconds = 1e10;  // a point in time, of any epoch

/// One line as it was read; its time counts from the trace's own epoch.
using Line = absl::StatusOr<TraceRequest>;

absl::Status CheckRequest(const TraceRequest& request) {
  if (!(std::abs(request.seconds) <= kMaxSeconds)) {
    return absl::InvalidArgumentError("the timestamp is out of range");
  }
  for (const int64_t tokens : {request.num_prompt_tokens, request.num_output_tokens}) {
    if (tokens < 0 || tokens > kMaxTokens) {
      return absl::InvalidArgumentError(
          absl::StrCat(tokens, " tokens are not in [0, ", kMaxTokens, "]"));
    }
  }
  return absl::OkStatus();
}

std::optional<double> Number(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return std::nullopt;
  return found->get<double>();
}

std::optional<int64_t> Integer(const nlohmann::json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer()) return std::nullopt;
  return found->get<int64_t>();
}

absl::Status ReadBlockHashes(const nlohmann::json& hashes, TraceRequest& request) {
  const auto bad = [](absl::string_view why) {
    return absl::InvalidArgumentError(absl::StrCat("hash_ids ", why));
  };
  if (!hashes.is_array()) return bad("is no list");
  for (const auto& hash : hashes) {
    if (!hash.is_number_integer()) return bad("holds something that is no integer");
    request.block_hashes.push_back(hash.get<int64_t>());
  }
  const int64_t needed = (request.num_prompt_tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
  if (std::ssize(request.block_hashes) != needed) {
    return bad(absl::StrCat("has ", hashes.size(), " blocks of ", kTraceBlockTokens,
                            " tokens for input_length ", request.num_prompt_tokens, ", expected ",
                            needed));
  }
  return absl::OkStatus();
}

Line ReadMooncakeLine(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  const std::optional<double> milliseconds = Number(json, "timestamp");
  const std::optional<int64_t> input = Integer(json, "input_length");
  const std::optional<int64_t> output = Integer(json, "output_length");
  if (!milliseconds.has_value() || !input.has_value() || !output.has_value()) {
    return absl::InvalidArgumentError(
        "expected the numbers timestamp, input_length and output_length");
  }
  TraceRequest request{
      .seconds = *milliseconds / 1000, .num_prompt_tokens = *input, .num_output_tokens = *output};
  MOED_RETURN_IF_ERROR(CheckRequest(request));
  const auto hashes = json.find("hash_ids");
  if (hashes != json.end()) MOED_RETURN_IF_ERROR(ReadBlockHashes(*hashes, request));
  return request;
}

absl::StatusOr<int64_t> Tokens(absl::string_view field) {
  int64_t tokens = 0;
  if (absl::SimpleAtoi(field, &tokens)) return tokens;
  return absl::InvalidArgumentError(absl::StrCat("'", field, "' is no number of tokens"));
}

/// 2023-11-16 18:15:46.6805900, also with a UTC offset.
absl::StatusOr<double> AzureSeconds(absl::string_view field) {
  absl::Time time;
  std::string error;
  const std::string text(absl::StripAsciiWhitespace(field));
  if (!absl::ParseTime("%Y-%m-%d%t%H:%M:%E*S%Ez", text, &time, &error) &&
      !absl::ParseTime("%Y-%m-%d%t%H:%M:%E*S", text, &time, &error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no time such as 2023-11-16 18:15:46.6805900"));
  }
  return absl::ToDoubleSeconds(time - absl::UnixEpoch());
}

Line ReadAzureLine(const std::string& text) {
  const std::vector<absl::string_view> fields = absl::StrSplit(text, ',');
  if (fields.size() != 3) {
    return absl::InvalidArgumentError(absl::StrCat(
        "has ", fields.size(), " fields, expected 3: TIMESTAMP,ContextTokens,GeneratedTokens"));
  }
  TraceRequest request;
  MOED_ASSIGN_OR_RETURN(request.seconds, AzureSeconds(fields[0]));
  MOED_ASSIGN_OR_RETURN(request.num_prompt_tokens, Tokens(fields[1]));
  MOED_ASSIGN_OR_RETURN(request.num_output_tokens, Tokens(fields[2]));
  MOED_RETURN_IF_ERROR(CheckRequest(request));
  return request;
}

Line ReadBurstGptLine(const std::string& text) {
  const std::vector<absl::string_view> fields = absl::StrSplit(text, ',');
  if (fields.size() < 4) {
    return absl::InvalidArgumentError(absl::StrCat(
        "has ", fields.size(),
        " fields, expected at least 4: Timestamp,Model,Request tokens,Response tokens"));
  }
  TraceRequest request;
  if (!absl::SimpleAtod(fields[0], &request.seconds)) {
    return absl::InvalidArgumentError(absl::StrCat("'", fields[0], "' is no time in seconds"));
  }
  MOED_ASSIGN_OR_RETURN(request.num_prompt_tokens, Tokens(fields[2]));
  MOED_ASSIGN_OR_RETURN(request.num_output_tokens, Tokens(fields[3]));
  MOED_RETURN_IF_ERROR(CheckRequest(request));
  return request;
}

Line ReadLine(const std::string& text, TraceFormat format) {
  switch (format) {
    case TraceFormat::kMooncake:
      return ReadMooncakeLine(text);
    case TraceFormat::kAzure:
      return ReadAzureLine(text);
    case TraceFormat::kBurstGpt:
      return ReadBurstGptLine(text);
  }
  return absl::InternalError("no such trace format");
}

bool IsHeader(const std::string& line) { return absl::StartsWithIgnoreCase(line, "timestamp,"); }

void SortFromZero(std::vector<TraceRequest>& requests) {
  std::stable_sort(
      requests.begin(), requests.end(),
      [](const TraceRequest& a, const TraceRequest& b) { return a.seconds < b.seconds; });
  const double first = requests.empty() ? 0 : requests.front().seconds;
  for (TraceRequest& request : requests) request.seconds -= first;
}

}  // namespace

absl::StatusOr<TraceFormat> ParseTraceFormat(absl::string_view name) {
  if (name == "mooncake") return TraceFormat::kMooncake;
  if (name == "azure") return TraceFormat::kAzure;
  if (name == "burstgpt") return TraceFormat::kBurstGpt;
  return absl::InvalidArgumentError(
      absl::StrCat("the trace format '", name, "' is none of mooncake, azure, burstgpt"));
}

absl::StatusOr<RequestTrace> ReadTrace(std::istream& in, TraceFormat format,
                                       const std::string& name) {
  RequestTrace trace;
  std::string text;
  for (int64_t line = 1; std::getline(in, text); ++line) {
    absl::StripAsciiWhitespace(&text);
    if (text.empty() || (line == 1 && format != TraceFormat::kMooncake && IsHeader(text))) continue;
    absl::StatusOr<TraceRequest> request = ReadLine(text, format);
    if (!request.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", line, ": ", request.status().message()));
    }
    if (request->num_prompt_tokens == 0 || request->num_output_tokens == 0) {
      ++trace.num_skipped;
      continue;
    }
    trace.requests.push_back(*std::move(request));
    if (trace.requests.size() > kMaxRequests) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": has more than ", kMaxRequests, " requests"));
    }
  }
  if (in.bad()) return absl::UnavailableError(absl::StrCat("reading ", name, " failed"));
  if (trace.requests.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": holds no request"));
  }
  SortFromZero(trace.requests);
  return trace;
}

absl::StatusOr<TraceFormat> DetectTraceFormat(std::istream& in, const std::string& name) {
  std::string text;
  std::getline(in, text);
  in.clear();
  in.seekg(0);
  absl::StripAsciiWhitespace(&text);
  const size_t num_commas = static_cast<size_t>(std::count(text.begin(), text.end(), ','));
  if (absl::StartsWith(text, "{")) return TraceFormat::kMooncake;
  if (num_commas == 2) return TraceFormat::kAzure;
  if (num_commas >= 3) return TraceFormat::kBurstGpt;
  return absl::InvalidArgumentError(
      absl::StrCat(name,
                   ":1: is the first line of no trace that is known (mooncake, azure, "
                   "burstgpt); name it with --trace-format"));
}

}  // namespace moed::load
