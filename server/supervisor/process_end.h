#pragma once

#include <string>

namespace moed {

/// How a process ended: by exit(exit_code), or killed by `signal` when that is not 0.
struct ProcessEnd {
  int exit_code = 0;
  int signal = 0;

  bool operator==(const ProcessEnd&) const = default;
};

/// "exited with code 3", "was killed by signal 9 (Killed)".
std::string Describe(const ProcessEnd& end);

}  // namespace moed
