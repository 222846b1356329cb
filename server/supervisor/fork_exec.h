#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace moed {

struct ForkExecParams {
  const std::string& binary;              // a path; PATH is not searched
  const std::vector<std::string>& args;   // without the program's name
  const std::vector<int>& inherited_fds;  // become 3, 4, ...; at most kMaxInheritedFds
  int output_fd = -1;                     // becomes stdout and stderr
};

inline constexpr size_t kMaxInheritedFds = 8;

/// Starts a program and returns when it runs. The child ignores SIGINT, has every other signal at
/// its default and unblocked, reads from /dev/null, inherits no descriptor that is not named here,
/// and is killed by the kernel when the calling thread ends. Call it with all signals blocked.
absl::StatusOr<pid_t> ForkExec(const ForkExecParams& params);

}  // namespace moed
