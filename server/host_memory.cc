#include "server/host_memory.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"
#include "config/text_file.h"
#include "server/cgroup_directories.h"

namespace moed {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

// The files of one version of memory cgroups, in a group's directory.
struct CgroupFiles {
  const char* limit;
  const char* usage;
  const char* reclaimable;  // key in memory.stat: page cache that gives way
};
constexpr CgroupFiles kV1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                             "total_inactive_file"};
constexpr CgroupFiles kV2 = {"memory.max", "memory.current", "inactive_file"};

// The number in a file; nothing if there is no such file or it holds no number ("max").
std::optional<int64_t> ReadNumber(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  int64_t number = 0;
  if (!text.ok() || !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number)) {
    return std::nullopt;
  }
  return number;
}

// The number after `key` in text of lines "key number ..." or "key: number ...".
std::optional<int64_t> FindNumber(const std::string& text, const std::string& key) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::vector<std::string> words =
        absl::StrSplit(line, absl::ByAnyChar(" :\t"), absl::SkipEmpty());
    int64_t number = 0;
    if (words.size() >= 2 && words[0] == key && absl::SimpleAtoi(words[1], &number)) return number;
  }
  return std::nullopt;
}

// What one group leaves; kUnlimited if it has no limit.
int64_t LeftInGroup(const std::string& directory, const CgroupFiles& files) {
  const std::optional<int64_t> limit = ReadNumber(directory + "/" + files.limit);
  const std::optional<int64_t> usage = ReadNumber(directory + "/" + files.usage);
  if (!limit || !usage) return kUnlimited;
  const absl::StatusOr<std::string> stat = ReadTextFile(directory + "/memory.stat");
  const int64_t reclaimable = stat.ok() ? FindNumber(*stat, files.reclaimable).value_or(0) : 0;
  return std::max<int64_t>(*limit - *usage + reclaimable, 0);
}

int64_t LeftInGroups(const std::vector<std::string>& groups, const CgroupFiles& files) {
  int64_t left = kUnlimited;
  for (const std::string& group : groups) left = std::min(left, LeftInGroup(group, files));
  return left;
}

}  // namespace

absl::StatusOr<int64_t> AvailableMemoryBytes(const std::string& root) {
  MOED_ASSIGN_OR_RETURN(const std::string meminfo, ReadTextFile(root + "/proc/meminfo"));
  const std::optional<int64_t> available_kib = FindNumber(meminfo, "MemAvailable");
  if (!available_kib) {
    return absl::NotFoundError(absl::StrFormat("%s/proc/meminfo has no MemAvailable", root));
  }
  const CgroupDirectories groups = FindCgroupDirectories("memory", root);
  return std::min(
      {*available_kib * 1024, LeftInGroups(groups.v1, kV1), LeftInGroups(groups.v2, kV2)});
}

}  // namespace moed
