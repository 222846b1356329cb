#include "server/supervisor/cpu_quota.h"

#include <algorithm>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "config/text_file.h"
#include "server/cgroup_directories.h"

namespace moed {
namespace {

// Time per period; nothing for "max", -1, or what is no number.
std::optional<double> Quota(absl::string_view time, absl::string_view period) {
  double time_us = 0;
  double period_us = 0;
  if (!absl::SimpleAtod(time, &time_us) || !absl::SimpleAtod(period, &period_us)) {
    return std::nullopt;
  }
  if (!(time_us > 0) || !(period_us > 0)) return std::nullopt;
  return time_us / period_us;
}

std::string ReadOrEmpty(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadTextFile(path);
  return text.ok() ? std::string(absl::StripAsciiWhitespace(*text)) : "";
}

}  // namespace

std::optional<double> CpuQuota(const std::string& root) {
  const CgroupDirectories groups = FindCgroupDirectories("cpu", root);
  std::optional<double> least;
  const auto add = [&least](const std::optional<double>& quota) {
    if (quota) least = std::min(least.value_or(*quota), *quota);
  };
  for (const std::string& group : groups.v2) {
    const std::vector<std::string> words = absl::StrSplit(ReadOrEmpty(group + "/cpu.max"), ' ');
    if (words.size() == 2) add(Quota(words[0], words[1]));
  }
  for (const std::string& group : groups.v1) {
    add(Quota(ReadOrEmpty(group + "/cpu.cfs_quota_us"), ReadOrEmpty(group + "/cpu.cfs_period_us")));
  }
  return least;
}

}  // namespace moed
