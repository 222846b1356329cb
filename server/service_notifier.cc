#include "server/service_notifier.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace moed {
namespace {

struct SocketAddress {
  sockaddr_un value = {};
  socklen_t size_bytes = 0;
};

absl::StatusOr<SocketAddress> ParseAddress(const std::string& address) {
  SocketAddress parsed;
  const size_t max_bytes = sizeof(parsed.value.sun_path) - 1;
  const bool has_form = address.starts_with("/") || address.starts_with("@");
  if (!has_form || address.size() < 2 || address.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("NOTIFY_SOCKET: expected an absolute path or @NAME of 2 to ", max_bytes,
                     " bytes, got '", address, "'"));
  }
  parsed.value.sun_family = AF_UNIX;
  std::memcpy(parsed.value.sun_path, address.data(), address.size());
  if (address[0] == '@') parsed.value.sun_path[0] = '\0';
  parsed.size_bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + address.size());
  return parsed;
}

absl::Status ErrnoStatus(absl::string_view what) { return absl::ErrnoToStatus(errno, what); }

}  // namespace

absl::StatusOr<std::unique_ptr<ServiceNotifier>> ServiceNotifier::FromEnvironment() {
  const char* address = ::getenv("NOTIFY_SOCKET");
  if (address == nullptr || *address == '\0') return nullptr;
  return Create(address);
}

absl::StatusOr<std::unique_ptr<ServiceNotifier>> ServiceNotifier::Create(
    const std::string& address) {
  const absl::StatusOr<SocketAddress> parsed = ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus("opening a socket to the service manager");
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&parsed->value), parsed->size_bytes)) {
    return ErrnoStatus(absl::StrCat("connecting to the service manager at ", address));
  }
  return std::unique_ptr<ServiceNotifier>(new ServiceNotifier(std::move(fd)));
}

absl::Status ServiceNotifier::Ready() { return Send("READY=1"); }

// The longest end is told as well, so that the unit's own time-out need not know it.
absl::Status ServiceNotifier::Stopping(absl::Duration longest) {
  return Send(absl::StrCat("STOPPING=1\nEXTEND_TIMEOUT_USEC=", absl::ToInt64Microseconds(longest)));
}

absl::Status ServiceNotifier::SetStatus(absl::string_view text) {
  return Send(absl::StrCat("STATUS=", absl::StrReplaceAll(text, {{"\n", " "}})));
}

absl::Status ServiceNotifier::Send(const std::string& message) {
  const ssize_t sent = ::send(socket_.get(), message.data(), message.size(), MSG_NOSIGNAL);
  if (sent == static_cast<ssize_t>(message.size())) return absl::OkStatus();
  return ErrnoStatus(absl::StrCat("telling the service manager ", message));
}

}  // namespace moed
