#include "server/supervisor/socket_directory.h"

#include <stdlib.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace moed {
namespace {

constexpr char kNameTemplate[] = "/moed-XXXXXX";
constexpr size_t kMaxSocketNameBytes = sizeof("/rank-0000000000.sock");

/// $XDG_RUNTIME_DIR when it can be used and a socket's path in it fits into its address.
std::string ParentDirectory() {
  const char* directory = ::getenv("XDG_RUNTIME_DIR");
  if (directory == nullptr || *directory != '/') return "/tmp";
  const size_t path_bytes = std::strlen(directory) + sizeof(kNameTemplate) + kMaxSocketNameBytes;
  const bool fits = path_bytes < sizeof(sockaddr_un::sun_path);
  return fits && ::access(directory, W_OK | X_OK) == 0 ? directory : "/tmp";
}

}  // namespace

absl::StatusOr<std::unique_ptr<SocketDirectory>> SocketDirectory::Create(int32_t num_ranks) {
  std::string path = absl::StrCat(ParentDirectory(), kNameTemplate);
  if (::mkdtemp(path.data()) == nullptr) {  // mode 0700
    return absl::UnavailableError(absl::StrCat("making a directory for the engines' sockets, ",
                                               path, ": ", std::strerror(errno)));
  }
  return std::unique_ptr<SocketDirectory>(new SocketDirectory(std::move(path), num_ranks));
}

SocketDirectory::~SocketDirectory() {
  for (int32_t rank = 0; rank < num_ranks_; ++rank) ::unlink(SocketPath(rank).c_str());
  ::rmdir(path_.c_str());
}

std::string SocketDirectory::SocketPath(int32_t rank) const {
  return absl::StrCat(path_, "/rank-", rank, ".sock");
}

}  // namespace moed
