#include "config/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "config/base/unique_fd.h"

namespace moed {
namespace {

constexpr size_t kMaxBytes = size_t{64} << 20;
constexpr size_t kMinReadBytes = 4096;

}  // namespace

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (!fd.valid() || ::fstat(fd.get(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot open '", path, "'"));
  }
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("'", path, "' is not a regular file"));
  }
  // Files of /proc and /sys say they are empty, so the size is a hint only and the end is what
  // counts.
  std::string text;
  size_t num_read = 0;
  while (true) {
    const size_t size = std::min<size_t>(info.st_size, kMaxBytes);
    text.resize(std::max(size, num_read) + kMinReadBytes);
    const ssize_t n = ::read(fd.get(), text.data() + num_read, text.size() - num_read);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
    if (n == 0) break;
    num_read += n;
    if (num_read > kMaxBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", path, "' is too long, expected at most ", kMaxBytes, " bytes"));
    }
  }
  text.resize(num_read);
  return text;
}

}  // namespace moed
