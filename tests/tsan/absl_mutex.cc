// Shows absl::Mutex and absl::Notification to ThreadSanitizer.
//
// The distribution's absl is built without instrumentation, so ThreadSanitizer would report a race
// for everything that an absl::Mutex guards. Linked into a program, these definitions come before
// those of the shared library: they tell ThreadSanitizer what happens and call the library's.
// Conditions are waited for by polling, so that they are evaluated under a lock that
// ThreadSanitizer knows of.

#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <string>

#include "absl/base/config.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "config/base/check.h"

namespace {

#define MOED_STRING_INNER(x) #x
#define MOED_STRING(x) MOED_STRING_INNER(x)

constexpr unsigned kRead = __tsan_mutex_read_lock;
constexpr unsigned kTry = __tsan_mutex_try_lock;

// The shared library's function: `member` is the part of its mangled name after the namespace, and
// `prefix` the part before: "_ZN", or "_ZNK" for a const function.
template <typename Function>
Function Next(const std::string& member, const std::string& prefix = "_ZN") {
  const std::string inline_namespace = MOED_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME);
  const std::string name =
      prefix + "4absl" + std::to_string(inline_namespace.size()) + inline_namespace + member;
  void* const symbol = dlsym(RTLD_NEXT, name.c_str());
  MOED_CHECK(symbol != nullptr);
  return reinterpret_cast<Function>(symbol);
}

// A Status counts its references with atomics, half of which are in the library and so are not
// seen.
constexpr char kSuppressions[] = "race:absl::*::Status::Unref\n";

using MutexFunction = void (*)(absl::Mutex*);
using MutexTryFunction = bool (*)(absl::Mutex*);

constexpr absl::Duration kPoll = absl::Microseconds(200);

}  // namespace

extern "C" const char* __tsan_default_suppressions() { return kSuppressions; }

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto next = Next<MutexFunction>("5Mutex4LockEv");
  __tsan_mutex_pre_lock(this, 0);
  next(this);
  __tsan_mutex_post_lock(this, 0, 0);
}

void Mutex::Unlock() {
  static const auto next = Next<MutexFunction>("5Mutex6UnlockEv");
  __tsan_mutex_pre_unlock(this, 0);
  next(this);
  __tsan_mutex_post_unlock(this, 0);
}

bool Mutex::TryLock() {
  static const auto next = Next<MutexTryFunction>("5Mutex7TryLockEv");
  __tsan_mutex_pre_lock(this, kTry);
  const bool locked = next(this);
  __tsan_mutex_post_lock(this, locked ? kTry : kTry | __tsan_mutex_try_lock_failed, 0);
  return locked;
}

void Mutex::ReaderLock() {
  static const auto next = Next<MutexFunction>("5Mutex10ReaderLockEv");
  __tsan_mutex_pre_lock(this, kRead);
  next(this);
  __tsan_mutex_post_lock(this, kRead, 0);
}

void Mutex::ReaderUnlock() {
  static const auto next = Next<MutexFunction>("5Mutex12ReaderUnlockEv");
  __tsan_mutex_pre_unlock(this, kRead);
  next(this);
  __tsan_mutex_post_unlock(this, kRead);
}

bool Mutex::AwaitWithDeadline(const Condition& cond, absl::Time deadline) {
  while (!cond.Eval()) {
    if (absl::Now() >= deadline) return false;
    Unlock();
    absl::SleepFor(kPoll);
    Lock();
  }
  return true;
}

bool Mutex::AwaitWithTimeout(const Condition& cond, absl::Duration timeout) {
  return AwaitWithDeadline(cond, absl::Now() + timeout);
}

void Mutex::Await(const Condition& cond) { AwaitWithDeadline(cond, absl::InfiniteFuture()); }

void Mutex::LockWhen(const Condition& cond) {
  Lock();
  Await(cond);
}

bool Mutex::LockWhenWithTimeout(const Condition& cond, absl::Duration timeout) {
  Lock();
  return AwaitWithTimeout(cond, timeout);
}

bool Mutex::LockWhenWithDeadline(const Condition& cond, absl::Time deadline) {
  Lock();
  return AwaitWithDeadline(cond, deadline);
}

void Notification::Notify() {
  static const auto next = Next<void (*)(Notification*)>("12Notification6NotifyEv");
  __tsan_release(this);
  next(this);
}

void Notification::WaitForNotification() const {
  static const auto next =
      Next<void (*)(const Notification*)>("12Notification19WaitForNotificationEv", "_ZNK");
  next(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(absl::Duration timeout) const {
  static const auto next = Next<bool (*)(const Notification*, absl::Duration)>(
      "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE", "_ZNK");
  const bool notified = next(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
