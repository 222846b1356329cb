// moed-load: puts load on a moed server and says how it fares.

#include <langinfo.h>
#include <stdlib.h>
#include <unistd.h>

#include <clocale>
#include <iostream>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "client/interrupt_watcher.h"
#include "client/load/load_command.h"
#include "client/load/load_flags.h"

namespace moed::load {
namespace {

LoadStreams StandardStreams() {
  const bool is_utf8 = std::string(::nl_langinfo(CODESET)) == "UTF-8";
  const bool is_terminal = ::isatty(STDOUT_FILENO) == 1;
  return {.out = std::cout,
          .err = std::cerr,
          .charset = is_terminal && is_utf8 ? Charset::kUtf8 : Charset::kAscii,
          .err_is_terminal = ::isatty(STDERR_FILENO) == 1};
}

int RunLoad(const LoadFlags& flags) {
  BlockInterrupts();
  LoadCommand command(flags, StandardStreams());
  const absl::StatusOr<std::unique_ptr<InterruptWatcher>> watcher =
      InterruptWatcher::Create([&command] {
        if (command.is_stopped()) ::_exit(kExitInterrupted);  // somebody is in a hurry
        command.Stop();
      });
  if (!watcher.ok()) {
    std::cerr << "moed-load: " << watcher.status().message() << std::endl;
    return kExitFailure;
  }
  return command.Run();
}

int Run(const LoadCommandLine& line) {
  if (const auto* compare = std::get_if<CompareFlags>(&line)) {
    return RunCompare(*compare, StandardStreams());
  }
  return RunLoad(std::get<LoadFlags>(line));
}

}  // namespace
}  // namespace moed::load

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "");
  ::setenv("GRPC_VERBOSITY", "NONE", /*replace=*/0);  // failures are told in our own words
  const auto line = moed::load::ParseLoadCommandLine(argc, argv);
  if (const int* exit_code = std::get_if<int>(&line)) return *exit_code;
  return moed::load::Run(std::get<moed::load::LoadCommandLine>(line));
}
