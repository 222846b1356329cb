#include "server/cgroup_directories.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "config/text_file.h"

namespace moed {
namespace {

constexpr char kMount[] = "/sys/fs/cgroup";

// `group` and all above it, below `mount`.
void AddUpwards(const std::string& mount, std::string group, std::vector<std::string>& out) {
  if (group == "/") group.clear();
  while (true) {
    out.push_back(mount + group);
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return;
    group.resize(slash);
  }
}

}  // namespace

// Lines of /proc/self/cgroup are "ID:CONTROLLERS:PATH"; v2 has ID 0 and no controllers.
CgroupDirectories FindCgroupDirectories(absl::string_view controller, const std::string& root) {
  CgroupDirectories directories;
  const absl::StatusOr<std::string> text = ReadTextFile(root + "/proc/self/cgroup");
  if (!text.ok()) return directories;
  for (const absl::string_view line : absl::StrSplit(*text, '\n')) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> controllers = absl::StrSplit(parts[1], ',');
    if (parts[1].empty()) AddUpwards(root + kMount, parts[2], directories.v2);
    if (std::count(controllers.begin(), controllers.end(), controller) > 0) {
      AddUpwards(absl::StrCat(root, kMount, "/", controller), parts[2], directories.v1);
    }
  }
  return directories;
}

}  // namespace moed
