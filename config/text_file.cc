#include "config/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "config/base/unique_fd.h"

namespace moed {
namespace {

constexpr int64_t kMaxBytes = int64_t{64} << 20;

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
  if (info.st_size > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", path, "' has ", info.st_size, " bytes, expected at most ", kMaxBytes));
  }
  std::string text(info.st_size, '\0');
  size_t num_read = 0;
  while (num_read < text.size()) {
    const ssize_t n = ::read(fd.get(), text.data() + num_read, text.size() - num_read);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot read '", path, "'"));
    if (n == 0) break;
    num_read += n;
  }
  text.resize(num_read);
  return text;
}

}  // namespace moed
