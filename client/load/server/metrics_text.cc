#include "client/load/server/metrics_text.h"

#include <civetweb.h>

#include <array>
#include <cstdint>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace moed::load {
namespace {

constexpr size_t kMaxBodyBytes = 64 << 20;
constexpr int kTimeoutMs = 2000;

absl::StatusOr<std::string> ReadBody(mg_connection* connection, const std::string& address) {
  std::array<char, 256> error = {};
  if (mg_get_response(connection, error.data(), error.size(), kTimeoutMs) < 0) {
    return absl::UnavailableError(absl::StrCat("reading ", address, "/metrics: ", error.data()));
  }
  const mg_response_info* info = mg_get_response_info(connection);
  if (info == nullptr || info->status_code != 200) {
    return absl::UnavailableError(absl::StrCat("reading ", address, "/metrics: HTTP status ",
                                               info == nullptr ? 0 : info->status_code));
  }
  std::string body;
  std::array<char, 1 << 16> buffer;
  for (int n = 0; (n = mg_read(connection, buffer.data(), buffer.size())) > 0;) {
    body.append(buffer.data(), static_cast<size_t>(n));
    if (body.size() > kMaxBodyBytes) {
      return absl::UnavailableError(absl::StrCat("reading ", address, "/metrics: too long"));
    }
  }
  return body;
}

}  // namespace

double SumOfMetric(absl::string_view text, absl::string_view name) {
  double sum = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (!absl::StartsWith(line, name)) continue;
    line.remove_prefix(name.size());
    if (line.empty() || (line[0] != ' ' && line[0] != '{')) continue;  // another name
    const size_t end_of_labels = line[0] == '{' ? line.rfind('}') : 0;
    if (end_of_labels == absl::string_view::npos) continue;
    const std::vector<absl::string_view> fields =
        absl::StrSplit(line.substr(end_of_labels + 1), ' ', absl::SkipEmpty());
    double value = 0;
    if (!fields.empty() && absl::SimpleAtod(fields[0], &value)) sum += value;
  }
  return sum;
}

absl::StatusOr<std::string> FetchMetrics(const std::string& address) {
  const size_t colon = address.rfind(':');
  int32_t port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the metrics address '", address, "' is not HOST:PORT"));
  }
  const std::string host = address.substr(0, colon);
  std::array<char, 256> error = {};
  mg_connection* connection =
      mg_connect_client(host.c_str(), port, /*use_ssl=*/0, error.data(), error.size());
  if (connection == nullptr) {
    return absl::UnavailableError(absl::StrCat("connecting to ", address, ": ", error.data()));
  }
  mg_printf(connection, "GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
            address.c_str());
  absl::StatusOr<std::string> body = ReadBody(connection, address);
  mg_close_connection(connection);
  return body;
}

}  // namespace moed::load
