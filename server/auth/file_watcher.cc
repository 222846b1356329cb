#include "server/auth/file_watcher.h"

#include <sys/stat.h>

namespace moed {
namespace {

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

FileWatcher::FileWatcher(Params params)
    : params_(std::move(params)), stamps_(Stamps()), thread_([this] { Run(); }) {}

FileWatcher::~FileWatcher() {
  {
    absl::MutexLock lock(&mutex_);
    is_over_ = true;
  }
  thread_.join();
}

FileWatcher::Stamp FileWatcher::StampOf(const std::string& path) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0) return {};
  return {.device = info.st_dev,
          .inode = info.st_ino,
          .num_bytes = info.st_size,
          .modified_ns = Nanoseconds(info.st_mtim),
          .changed_ns = Nanoseconds(info.st_ctim)};
}

std::vector<FileWatcher::Stamp> FileWatcher::Stamps() const {
  std::vector<Stamp> stamps;
  for (const std::string& path : params_.paths) stamps.push_back(StampOf(path));
  return stamps;
}

void FileWatcher::Run() {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&is_over_), params_.interval)) return;
    }
    std::vector<Stamp> stamps = Stamps();
    if (stamps == stamps_) continue;
    stamps_ = std::move(stamps);
    params_.on_change();
  }
}

}  // namespace moed
