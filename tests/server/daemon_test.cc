// The daemon as a process: exit codes, signals, the ready file. What it serves is tested elsewhere.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "config/base/unique_fd.h"

extern char** environ;

namespace moed {
namespace {

using ::testing::HasSubstr;

namespace fs = std::filesystem;

std::string ReadFile(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

class DaemonTest : public ::testing::Test {
 protected:
  DaemonTest() {
    std::string pattern = "/tmp/moed_daemon_test_XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
    watch_ = UniqueFd(inotify_init1(IN_CLOEXEC));
    inotify_add_watch(watch_.get(), directory_.c_str(), IN_CREATE | IN_MOVED_TO);
  }
  ~DaemonTest() override {
    if (pid_ > 0) {
      ::kill(pid_, SIGKILL);
      ::waitpid(pid_, nullptr, 0);
    }
    fs::remove_all(directory_);
  }

  void Start(std::vector<std::string> args) {
    args.insert(args.begin(), MOED_BINARY_DIR "/moed");
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const std::string output = directory_ + "/output";
    posix_spawn_file_actions_addopen(&actions, 1, output.c_str(), O_CREAT | O_WRONLY | O_APPEND,
                                     0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    ASSERT_EQ(posix_spawn(&pid_, argv[0], &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
  }

  // Serves the demo model on a socket of its own, until it is ready.
  void StartReady() {
    Start({"--ranks", "2", "--threads", "1", "--num-blocks", "64", "--listen",
           "unix:" + directory_ + "/moed.sock", "--metrics-listen", "127.0.0.1:0", "--ready-file",
           directory_ + "/ready"});
    AwaitFile("/ready");
  }

  void AwaitFile(const std::string& name) {
    while (!fs::exists(directory_ + name)) {
      pollfd fd = {.fd = watch_.get(), .events = POLLIN, .revents = 0};
      ASSERT_EQ(::poll(&fd, 1, 60'000), 1) << Output();
      char events[4096];
      ASSERT_GT(::read(watch_.get(), events, sizeof(events)), 0);
    }
  }

  // The exit code, or 128 + the signal that ended it.
  int Wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

  std::string Output() const { return ReadFile(directory_ + "/output"); }

  std::string directory_;
  UniqueFd watch_;
  pid_t pid_ = -1;
};

TEST_F(DaemonTest, WrongUsageExitsWithTwoAndNamesTheFlag) {
  Start({"--ranks", "none"});
  EXPECT_EQ(Wait(), 2);
  EXPECT_THAT(Output(), HasSubstr("--ranks"));
}

TEST_F(DaemonTest, AnUnknownFlagExitsWithTwo) {
  Start({"--rank", "2"});
  EXPECT_EQ(Wait(), 2);
}

TEST_F(DaemonTest, AnUnknownConfigKeyExitsWithTwo) {
  std::ofstream(directory_ + "/moed.json") << R"({"rankz": 2})";
  Start({"--config", directory_ + "/moed.json"});
  EXPECT_EQ(Wait(), 2);
  EXPECT_THAT(Output(), HasSubstr("rankz"));
}

TEST_F(DaemonTest, AFlagOverridesTheConfigFile) {
  std::ofstream(directory_ + "/moed.json")
      << R"({"ranks": 4, "block_size": 8, "prefix_caching": true})";
  Start({"--config", directory_ + "/moed.json", "--ranks", "3", "--no-prefix-caching", "--check",
         "--json"});
  EXPECT_EQ(Wait(), 0) << Output();
  EXPECT_THAT(Output(), HasSubstr("\"num_ranks\": 3"));
  EXPECT_THAT(Output(), HasSubstr("\"block_size\": 8"));
}

TEST_F(DaemonTest, CheckRefusesWhatCannotFit) {
  Start({"--check", "--memory-limit-gib", "0.01"});
  EXPECT_EQ(Wait(), 1);
  EXPECT_THAT(Output(), HasSubstr("are missing"));
}

TEST_F(DaemonTest, TheReadyFileSaysWhereItListensAndASignalEndsItWithZero) {
  StartReady();
  const std::string ready = ReadFile(directory_ + "/ready");
  EXPECT_THAT(ready, HasSubstr("\"listen\": \"unix:" + directory_ + "/moed.sock\""));
  EXPECT_THAT(ready, HasSubstr("\"metrics_listen\": \"127.0.0.1:"));
  ::kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0) << Output();
  EXPECT_THAT(Output(), HasSubstr("event=stopped"));
}

// Everything that was sent to a socket, one message a line or more.
std::string ReceiveAll(int socket) {
  std::string all;
  char buffer[512];
  while (true) {
    const ssize_t size = ::recv(socket, buffer, sizeof(buffer), MSG_DONTWAIT);
    if (size < 0) return all;
    all.append(buffer, static_cast<size_t>(size)).push_back('\n');
  }
}

TEST_F(DaemonTest, TheServiceManagerHearsWhenItServesAndWhenItEnds) {
  sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = {}};
  const std::string path = directory_ + "/notify";
  std::memcpy(address.sun_path, path.data(), path.size());
  const UniqueFd manager(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::bind(manager.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::setenv("NOTIFY_SOCKET", path.c_str(), 1);
  StartReady();
  ::unsetenv("NOTIFY_SOCKET");
  ::kill(pid_, SIGTERM);
  EXPECT_EQ(Wait(), 0) << Output();
  // 30 s of draining, 1 s for the servers and 15 s for the engines.
  EXPECT_THAT(ReceiveAll(manager.get()),
              ::testing::MatchesRegex("STATUS=loading\n(.*\n)*STATUS=serving\nREADY=1\n(.*\n)*"
                                      "STOPPING=1\nEXTEND_TIMEOUT_USEC=46000000\n(.*\n)*"));
}

TEST_F(DaemonTest, ASignalWhileLoadingEndsItWithZeroToo) {
  Start({"--ranks", "2", "--listen", "unix:" + directory_ + "/moed.sock", "--metrics-listen", ""});
  AwaitFile("/moed.sock");  // made right before the engines are started
  ::kill(pid_, SIGINT);
  EXPECT_EQ(Wait(), 0) << Output();
}

TEST_F(DaemonTest, EnginesThatCannotBeStartedEndItWithOneAndOneClearLine) {
  Start({"--ranks", "2", "--engine-binary", "/nonexistent/engine", "--listen",
         "unix:" + directory_ + "/moed.sock", "--metrics-listen", "", "--log-level", "off"});
  EXPECT_EQ(Wait(), 1);
  const std::string output = Output();
  EXPECT_THAT(output, HasSubstr("moed: "));
  EXPECT_THAT(output, HasSubstr("/nonexistent/engine"));
  EXPECT_EQ(std::count(output.begin(), output.end(), '\n'), 1) << output;
}

TEST_F(DaemonTest, AnAddressThatIsNotOursIsRefusedByName) {
  Start({"--insecure", "--listen", "192.0.2.1:1", "--metrics-listen", "", "--log-level", "off"});
  EXPECT_EQ(Wait(), 1);
  EXPECT_THAT(Output(), HasSubstr("192.0.2.1:1"));
}

}  // namespace
}  // namespace moed
