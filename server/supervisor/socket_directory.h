#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"

namespace moed {

/// A directory that only this user can enter, for the control sockets of the engines; removed with
/// all sockets in it when destroyed. Owned by the engine group, used by its thread.
class SocketDirectory {
 public:
  /// Under $XDG_RUNTIME_DIR, else /tmp.
  static absl::StatusOr<std::unique_ptr<SocketDirectory>> Create(int32_t num_ranks);
  SocketDirectory(const SocketDirectory&) = delete;
  SocketDirectory& operator=(const SocketDirectory&) = delete;
  ~SocketDirectory();

  const std::string& path() const { return path_; }
  std::string SocketPath(int32_t rank) const;

 private:
  SocketDirectory(std::string path, int32_t num_ranks)
      : path_(std::move(path)), num_ranks_(num_ranks) {}

  const std::string path_;
  const int32_t num_ranks_;
};

}  // namespace moed
