#include "server/host_memory.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace moed {
namespace {

namespace fs = std::filesystem;

class HostMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = ::testing::TempDir() + "/host_memory_" +
            ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(root_);
    Write("/proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:    5000 kB\n");
  }
  void TearDown() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  std::string root_;
};

TEST_F(HostMemoryTest, WithoutGroupsItIsWhatTheKernelCallsAvailable) {
  EXPECT_EQ(*AvailableMemoryBytes(root_), 5000 * 1024);
}

TEST_F(HostMemoryTest, AGroupOfVersionTwoLimitsItAndItsPageCacheGivesWay) {
  Write("/proc/self/cgroup", "0::/pods/one\n");
  Write("/sys/fs/cgroup/pods/one/memory.max", "3000000\n");
  Write("/sys/fs/cgroup/pods/one/memory.current", "1000000\n");
  Write("/sys/fs/cgroup/pods/one/memory.stat", "anon 1\ninactive_file 200000\n");
  EXPECT_EQ(*AvailableMemoryBytes(root_), 2'200'000);
}

TEST_F(HostMemoryTest, AGroupFurtherUpLimitsItToo) {
  Write("/proc/self/cgroup", "0::/pods/one\n");
  Write("/sys/fs/cgroup/pods/one/memory.max", "max\n");
  Write("/sys/fs/cgroup/pods/one/memory.current", "1000000\n");
  Write("/sys/fs/cgroup/pods/memory.max", "1500000\n");
  Write("/sys/fs/cgroup/pods/memory.current", "1000000\n");
  EXPECT_EQ(*AvailableMemoryBytes(root_), 500'000);
}

TEST_F(HostMemoryTest, AGroupOfVersionOneLimitsItAlsoWhereItsPathIsTheHosts) {
  Write("/proc/self/cgroup", "4:cpu,memory:/docker/abc\n1:pids:/\n0::/\n");
  Write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n");
  Write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1000000\n");
  EXPECT_EQ(*AvailableMemoryBytes(root_), 3'000'000);
}

TEST_F(HostMemoryTest, AGroupThatIsFullLeavesNothing) {
  Write("/proc/self/cgroup", "0::/\n");
  Write("/sys/fs/cgroup/memory.max", "100\n");
  Write("/sys/fs/cgroup/memory.current", "200\n");
  EXPECT_EQ(*AvailableMemoryBytes(root_), 0);
}

TEST_F(HostMemoryTest, ThisMachineHasSome) {
  const auto available = AvailableMemoryBytes();
  ASSERT_TRUE(available.ok()) << available.status();
  EXPECT_GT(*available, 0);
}

}  // namespace
}  // namespace moed
