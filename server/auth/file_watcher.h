#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace moed {

/// Tells when files have changed: written, replaced, or reached by another symbolic link (as
/// Kubernetes swaps the files of a secret). Looks at them in intervals, from a thread of its own.
///
/// Owned by the daemon. `on_change` runs on the watcher's thread; whoever is behind it must outlive
/// the watcher.
class FileWatcher {
 public:
  struct Params {
    std::vector<std::string> paths;
    absl::Duration interval = absl::Seconds(1);
    std::function<void()> on_change;  // called once for a change of any number of them
  };

  /// Takes the files as they are now as known: read them after this, so that no change is missed.
  explicit FileWatcher(Params params);
  ~FileWatcher();

 private:
  // What tells a file from what was there before; all zero for one that cannot be seen.
  struct Stamp {
    uint64_t device = 0;
    uint64_t inode = 0;
    int64_t num_bytes = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;

    bool operator==(const Stamp&) const = default;
  };

  static Stamp StampOf(const std::string& path);
  std::vector<Stamp> Stamps() const;
  void Run() ABSL_LOCKS_EXCLUDED(mutex_);

  const Params params_;
  absl::Mutex mutex_;
  bool is_over_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<Stamp> stamps_;  // [number of paths]; the watcher's thread only
  std::thread thread_;         // last: uses all of the above
};

}  // namespace moed
