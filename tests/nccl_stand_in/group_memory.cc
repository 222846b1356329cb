#include "tests/nccl_stand_in/group_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <new>
#include <string>

namespace nccl_stand_in {
namespace {

constexpr uint32_t kMagic = 0x57a2d120;

GroupHeader* MapShared(int fd) {
  void* memory = mmap(nullptr, sizeof(GroupHeader), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return memory == MAP_FAILED ? nullptr : static_cast<GroupHeader*>(memory);
}

}  // namespace

bool MakeGroup(GroupId& id) {
  const int fd = memfd_create("nccl-stand-in", MFD_CLOEXEC);
  if (fd < 0 || ftruncate(fd, sizeof(GroupHeader)) != 0) return false;
  GroupHeader* header = MapShared(fd);
  if (header == nullptr) return false;
  header->magic.store(kMagic);  // all else is zero, and so are its atomics
  munmap(header, sizeof(GroupHeader));
  id = {.magic = kMagic, .pid = getpid(), .fd = fd};
  return true;
}

std::unique_ptr<GroupMemory> GroupMemory::Map(const GroupId& id) {
  if (id.magic != kMagic) return nullptr;
  const std::string path = "/proc/" + std::to_string(id.pid) + "/fd/" + std::to_string(id.fd);
  const int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return nullptr;
  GroupHeader* header = MapShared(fd);
  close(fd);
  if (header == nullptr) return nullptr;
  std::unique_ptr<GroupMemory> memory(new GroupMemory(header));
  return header->magic.load() == kMagic ? std::move(memory) : nullptr;
}

GroupMemory::~GroupMemory() { munmap(header_, sizeof(GroupHeader)); }

bool GroupMemory::Join(int rank, int num_ranks) {
  int32_t agreed = 0;
  if (!header_->num_ranks.compare_exchange_strong(agreed, num_ranks) && agreed != num_ranks) {
    return false;
  }
  const uint32_t bit = 1u << rank;
  return (header_->joined.fetch_or(bit) & bit) == 0;
}

bool GroupMemory::AllJoined() const {
  const int32_t num_ranks = header_->num_ranks.load();
  return header_->joined.load() == (1u << num_ranks) - 1;
}

}  // namespace nccl_stand_in
