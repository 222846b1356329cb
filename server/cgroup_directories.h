#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace moed {

/// Folders of the control groups that hold a process, its own first, then those above it.
struct CgroupDirectories {
  std::vector<std::string> v1;  // of one controller
  std::vector<std::string> v2;
};

/// Of this process and `controller` ("memory", "cpu"); both are empty where there are no groups.
/// Folders need not exist: inside a container the path of the group may be one of the host, and
/// then the last folder, the mount itself, is the container's group. `root` goes before all paths
/// (tests).
CgroupDirectories FindCgroupDirectories(absl::string_view controller, const std::string& root = "");

}  // namespace moed
