#include "engine/rpc/engine_server.h"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "config/base/status_macros.h"
#include "config/base/unique_fd.h"
#include "engine/rpc/conversion.h"
#include "engine/rpc/engine_service.h"

namespace moed {
namespace {

absl::Status Errno(const char* doing) {
  return absl::InternalError(absl::StrCat(doing, ": ", std::strerror(errno)));
}

/// A descriptor that becomes readable when SIGTERM comes; ignores SIGINT.
absl::StatusOr<UniqueFd> TakeSignals() {
  ::signal(SIGINT, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  if (const int error = ::pthread_sigmask(SIG_BLOCK, &signals, nullptr); error != 0) {
    return absl::InternalError(absl::StrCat("blocking SIGTERM: ", std::strerror(error)));
  }
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!fd.valid()) return Errno("making a descriptor for SIGTERM");
  return fd;
}

/// How the session ended, handed from its thread to the main one through an eventfd.
class SessionEnd {
 public:
  explicit SessionEnd(int event_fd) : event_fd_(event_fd) {}

  void Set(absl::Status status) {
    {
      absl::MutexLock lock(&mutex_);
      status_ = std::move(status);
    }
    ::eventfd_write(event_fd_, 1);
  }

  absl::Status status() const {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  const int event_fd_;
  mutable absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<std::unique_ptr<grpc::Server>> Listen(const std::string& address,
                                                     EngineService& service) {
  if (!absl::StartsWith(address, "unix:")) {
    return absl::InvalidArgumentError(
        absl::StrCat("listening on \"", address, "\": expected unix:PATH"));
  }
  int port = 0;  // not 0 afterwards: the address could be bound
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxEngineMessageBytes);
  builder.SetMaxSendMessageSize(kMaxEngineMessageBytes);
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("listening on ", address, ": it cannot be bound"));
  }
  return server;
}

enum class Wakeup { kSessionEnd, kSignal, kParentGone };

/// Blocks until the first of the three happens.
absl::StatusOr<Wakeup> WaitForWakeup(int session_fd, int signal_fd, int parent_fd) {
  // Nothing is ever written to the parent's pipe: it becomes readable when its last writer is gone.
  pollfd fds[] = {{session_fd, POLLIN, 0}, {signal_fd, POLLIN, 0}, {parent_fd, POLLIN, 0}};
  while (::poll(fds, 3, -1) < 0) {
    if (errno != EINTR) return Errno("waiting for the session to end");
  }
  if (fds[2].revents != 0) return Wakeup::kParentGone;
  return fds[0].revents != 0 ? Wakeup::kSessionEnd : Wakeup::kSignal;
}

}  // namespace

absl::Status RunEngineServer(const EngineServerOptions& options, EngineFactory factory) {
  MOED_ASSIGN_OR_RETURN(const UniqueFd signal_fd, TakeSignals());
  const UniqueFd session_fd(::eventfd(0, EFD_CLOEXEC));
  if (!session_fd.valid()) return Errno("making an eventfd");
  SessionEnd session_end(session_fd.get());
  EngineService service(std::move(factory),
                        [&](absl::Status status) { session_end.Set(std::move(status)); });
  MOED_ASSIGN_OR_RETURN(const std::unique_ptr<grpc::Server> server,
                        Listen(options.listen, service));
  MOED_ASSIGN_OR_RETURN(const Wakeup wakeup,
                        WaitForWakeup(session_fd.get(), signal_fd.get(), options.parent_fd));
  if (wakeup == Wakeup::kParentGone) ::_exit(1);
  const absl::Status status = wakeup == Wakeup::kSignal ? absl::OkStatus() : session_end.status();
  // A failed session gets time to tell the daemon why; one that still runs is cancelled. A step in
  // progress is waited for, which the daemon bounds by SIGKILL.
  const bool daemon_listens = !status.ok() && !absl::IsCancelled(status);
  const std::chrono::seconds grace(daemon_listens ? 1 : 0);
  server->Shutdown(std::chrono::system_clock::now() + grace);
  server->Wait();
  return status;
}

}  // namespace moed
