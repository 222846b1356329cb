#include "config/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace moed {

void CheckFailed(std::string_view condition, const char* file, int line) {
  std::fprintf(stderr, "%s:%d: check failed: %.*s\n", file, line,
               static_cast<int>(condition.size()), condition.data());
  std::abort();
}

}  // namespace moed
