#include "server/device_memory.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "config/base/status_macros.h"
#include "server/supervisor/child_process.h"
#include "server/supervisor/engine_processes.h"

namespace moed {
namespace {

// CUDA may take some seconds to start.
constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr absl::string_view kPrefix = "free_bytes=";

absl::StatusOr<int64_t> FreeBytes(const std::string& binary, const std::string& device) {
  std::vector<std::string> lines;  // written by the child's thread until it has ended
  std::optional<ProcessEnd> end;
  {
    MOED_ASSIGN_OR_RETURN(
        const std::unique_ptr<ChildProcess> child,
        ChildProcess::Spawn(
            {.binary = binary,
             .args = {absl::StrCat("--free-memory=", device)},
             .inherited_fds = {},
             .on_line = [&lines](absl::string_view line) { lines.emplace_back(line); },
             .on_end = [](const ProcessEnd&) {}}));
    end = child->WaitForEnd(kTimeout);
  }
  for (absl::string_view line : lines) {
    int64_t bytes = 0;
    if (absl::ConsumePrefix(&line, kPrefix) && absl::SimpleAtoi(line, &bytes)) return bytes;
  }
  return absl::FailedPreconditionError(
      absl::StrCat("asking ", binary, " for the free memory of ", device, ": ",
                   end.has_value() ? absl::StrJoin(lines, "; ") : "no answer within a minute"));
}

}  // namespace

absl::StatusOr<int64_t> AvailableDeviceBytes(const DeviceMemoryQuery& query) {
  std::string binary = query.engine_binary;
  if (binary.empty()) {
    MOED_ASSIGN_OR_RETURN(binary, PathBesideThisProgram("moed-engine"));
  }
  if (query.device != "cuda") return FreeBytes(binary, query.device);
  int64_t least = INT64_MAX;
  for (int32_t rank = 0; rank < query.num_ranks; ++rank) {
    MOED_ASSIGN_OR_RETURN(const int64_t bytes, FreeBytes(binary, absl::StrCat("cuda:", rank)));
    least = std::min(least, bytes);
  }
  return least * query.num_ranks;
}

}  // namespace moed
