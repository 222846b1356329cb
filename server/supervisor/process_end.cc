#include "server/supervisor/process_end.h"

#include <cstring>

#include "absl/strings/str_cat.h"

namespace moed {

std::string Describe(const ProcessEnd& end) {
  if (end.signal == 0) return absl::StrCat("exited with code ", end.exit_code);
  return absl::StrCat("was killed by signal ", end.signal, " (", ::strsignal(end.signal), ")");
}

}  // namespace moed
