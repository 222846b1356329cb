#include "server/rpc/status_conversion.h"

#include <algorithm>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "server/auth/tenant_quotas.h"

namespace moed {
namespace {

constexpr char kTypePrefix[] = "type.googleapis.com/";
constexpr size_t kMaxViolations = 16;
constexpr size_t kMaxMessageBytes = 1024;  // headers are bounded, and so is a reader's patience
constexpr int kQueueFullPushbackMs = 200;
constexpr int kUnavailablePushbackMs = 1000;

int PushbackMs(const absl::Status& status) {
  if (const absl::Duration delay = RetryDelay(status); delay > absl::ZeroDuration()) {
    return static_cast<int>(absl::ToInt64Milliseconds(delay));
  }
  if (absl::IsResourceExhausted(status)) return kQueueFullPushbackMs;
  if (absl::IsUnavailable(status)) return kUnavailablePushbackMs;
  return 0;
}

template <typename Detail>
std::string TypeUrl(const Detail& detail) {
  return kTypePrefix + detail.GetDescriptor()->full_name();
}

void AddRetryInfo(int pushback_ms, google::rpc::Status& out) {
  google::rpc::RetryInfo info;
  info.mutable_retry_delay()->set_seconds(pushback_ms / 1000);
  info.mutable_retry_delay()->set_nanos(pushback_ms % 1000 * 1'000'000);
  out.add_details()->PackFrom(info);
}

}  // namespace

absl::Status BadRequestError(const FieldViolations& violations) {
  google::rpc::BadRequest bad_request;
  const size_t num_listed = std::min(violations.size(), kMaxViolations);
  for (size_t i = 0; i < num_listed; ++i) {
    auto* violation = bad_request.add_field_violations();
    violation->set_field(violations[i].field);
    violation->set_description(violations[i].description);
  }
  std::string message = absl::StrFormat("%s %s", violations[0].field, violations[0].description);
  if (violations.size() > 1) {
    message += absl::StrFormat(" (and %d more violations)", violations.size() - 1);
  }
  absl::Status status = absl::InvalidArgumentError(message);
  status.SetPayload(TypeUrl(bad_request), absl::Cord(bad_request.SerializeAsString()));
  return status;
}

grpc::Status ToGrpcStatus(const absl::Status& status, grpc::ServerContextBase& context) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(std::string(status.message().substr(0, kMaxMessageBytes)));
  status.ForEachPayload([&details](absl::string_view type_url, const absl::Cord& payload) {
    if (!absl::StartsWith(type_url, kTypePrefix)) return;  // the server's own
    auto* any = details.add_details();
    any->set_type_url(std::string(type_url));
    any->set_value(std::string(payload));
  });
  if (const int pushback_ms = PushbackMs(status); pushback_ms > 0) {
    context.AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrFormat("%d", pushback_ms));
    AddRetryInfo(pushback_ms, details);
  }
  const auto code = static_cast<grpc::StatusCode>(status.code());  // the two have equal numbers
  return grpc::Status(code, details.message(),
                      details.details_size() > 0 ? details.SerializeAsString() : "");
}

}  // namespace moed
