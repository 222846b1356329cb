#include "client/interrupt_watcher.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace moed {
namespace {

sigset_t Interrupts() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  return signals;
}

}  // namespace

void BlockInterrupts() {
  const sigset_t signals = Interrupts();
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

absl::StatusOr<std::unique_ptr<InterruptWatcher>> InterruptWatcher::Create(
    std::function<void()> on_interrupt) {
  const sigset_t interrupts = Interrupts();
  UniqueFd signals(::signalfd(-1, &interrupts, SFD_CLOEXEC));
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!signals.valid() || !stop.valid()) {
    return absl::InternalError(absl::StrCat("watching for interrupts: ", std::strerror(errno)));
  }
  std::unique_ptr<InterruptWatcher> watcher(
      new InterruptWatcher(std::move(signals), std::move(stop)));
  watcher->thread_ = std::thread(
      [raw = watcher.get(), callback = std::move(on_interrupt)] { raw->Run(callback); });
  return watcher;
}

InterruptWatcher::~InterruptWatcher() {
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

void InterruptWatcher::Run(const std::function<void()>& on_interrupt) {
  pollfd fds[] = {{signals_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
  while (fds[1].revents == 0) {
    if (::poll(fds, 2, -1) < 0 || fds[0].revents == 0) continue;
    signalfd_siginfo info;
    if (::read(signals_.get(), &info, sizeof(info)) == sizeof(info)) on_interrupt();
  }
}

}  // namespace moed
