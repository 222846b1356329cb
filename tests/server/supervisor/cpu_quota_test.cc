#include "server/supervisor/cpu_quota.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace moed {
namespace {

namespace fs = std::filesystem;

class CpuQuotaTest : public ::testing::Test {
 protected:
  CpuQuotaTest()
      : root_(::testing::TempDir() + "/cpu_quota_" +
              ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(root_);
  }
  ~CpuQuotaTest() override { fs::remove_all(root_); }

  void Write(const std::string& path, const std::string& text) {
    fs::create_directories(fs::path(root_ + path).parent_path());
    std::ofstream(root_ + path) << text;
  }

  std::string root_;
};

TEST_F(CpuQuotaTest, WithoutGroupsThereIsNone) { EXPECT_EQ(CpuQuota(root_), std::nullopt); }

TEST_F(CpuQuotaTest, AGroupOfVersionTwoSaysTimeAndPeriod) {
  Write("/proc/self/cgroup", "0::/pods/one\n");
  Write("/sys/fs/cgroup/pods/one/cpu.max", "250000 100000\n");
  EXPECT_EQ(CpuQuota(root_), 2.5);
}

TEST_F(CpuQuotaTest, AGroupFurtherUpLimitsItToo) {
  Write("/proc/self/cgroup", "0::/pods/one\n");
  Write("/sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
  Write("/sys/fs/cgroup/pods/cpu.max", "400000 100000\n");
  EXPECT_EQ(CpuQuota(root_), 4);
}

TEST_F(CpuQuotaTest, AGroupOfVersionOneLimitsItAlsoWhereItsPathIsTheHosts) {
  Write("/proc/self/cgroup", "4:cpu,cpuacct:/docker/abc\n1:pids:/\n0::/\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(CpuQuota(root_), 0.5);
}

TEST_F(CpuQuotaTest, NoLimitAndNonsenseAreNone) {
  Write("/proc/self/cgroup", "4:cpu:/\n0::/\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  Write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  Write("/sys/fs/cgroup/cpu.max", "many 0\n");
  EXPECT_EQ(CpuQuota(root_), std::nullopt);
}

}  // namespace
}  // namespace moed
