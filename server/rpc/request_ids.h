#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/strings/str_format.h"

namespace moed {

/// Makes request ids that are unique in the life of a server and, by their random prefix, told
/// apart from those of an earlier life. Any thread.
class RequestIds {
 public:
  explicit RequestIds(uint32_t random_prefix)
      : prefix_(absl::StrFormat("req-%08x-", random_prefix)) {}

  std::string Next() { return absl::StrFormat("%s%d", prefix_, ++last_); }

 private:
  const std::string prefix_;
  std::atomic<uint64_t> last_ = 0;
};

}  // namespace moed
