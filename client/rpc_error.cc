#include "client/rpc_error.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "client/text_table.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace moed {
namespace {

std::string FormatDetails(const std::string& serialized) {
  google::rpc::Status details;
  std::string out;
  if (!details.ParseFromString(serialized)) return out;
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::BadRequest bad_request;
    if (!detail.UnpackTo(&bad_request)) continue;
    for (const auto& violation : bad_request.field_violations()) {
      absl::StrAppend(&out, "\n  ", violation.field(), ": ", violation.description());
    }
  }
  return out;
}

}  // namespace

std::string FormatRpcError(const grpc::Status& status) {
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  const std::string message =
      status.error_message().empty() ? "the server gave no reason" : status.error_message();
  return ForTerminal(absl::StrCat(absl::StatusCodeToString(code), ": ", message,
                                  FormatDetails(status.error_details())));
}

}  // namespace moed
