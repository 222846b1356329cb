#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "config/base/unique_fd.h"

namespace moed {

/// Tells the service manager how the daemon is, in the protocol of sd_notify(3): one datagram of
/// lines "KEY=VALUE" for each message. Owned by the daemon; any thread may call it.
class ServiceNotifier {
 public:
  /// To the socket that $NOTIFY_SOCKET names: a path, or an abstract name after '@'. Null when no
  /// service manager asked for messages.
  static absl::StatusOr<std::unique_ptr<ServiceNotifier>> FromEnvironment();

  /// `address` is what $NOTIFY_SOCKET would hold.
  static absl::StatusOr<std::unique_ptr<ServiceNotifier>> Create(const std::string& address);

  /// The service has started: whoever waits for it may go on.
  absl::Status Ready();

  /// The service is about to end, which may take `longest`.
  absl::Status Stopping(absl::Duration longest);

  /// One line for people, shown by `systemctl status`.
  absl::Status SetStatus(absl::string_view text);

 private:
  explicit ServiceNotifier(UniqueFd socket) : socket_(std::move(socket)) {}

  absl::Status Send(const std::string& message);

  const UniqueFd socket_;  // connected
};

}  // namespace moed
