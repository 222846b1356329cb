#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "server/auth/certificate_files.h"

namespace moed {

/// The certificates that new connections are to get. Owned by the daemon; any thread.
class CertificateStore {
 public:
  struct Version {
    uint64_t number = 0;  // counts the reloads that changed something
    std::shared_ptr<const CertificateSet> set;
  };

  static absl::StatusOr<std::unique_ptr<CertificateStore>> Load(CertificatePaths paths,
                                                                absl::Time now);

  /// Reads the files again. An error leaves the certificates as they were: what was written half
  /// is read again when the rest has come.
  absl::Status Reload(absl::Time now);

  Version current() const;
  const CertificatePaths& paths() const { return paths_; }

 private:
  explicit CertificateStore(CertificatePaths paths) : paths_(std::move(paths)) {}

  const CertificatePaths paths_;
  mutable absl::Mutex mutex_;
  Version version_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace moed
