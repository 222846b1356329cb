// moedctl: the operator's and the user's command line, over the public API.

#include <langinfo.h>
#include <stdlib.h>
#include <unistd.h>

#include <clocale>
#include <iostream>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "client/command_line.h"
#include "client/commands.h"
#include "client/connection.h"
#include "client/interrupt_watcher.h"
#include "client/make_token.h"
#include "client/top/top.h"

namespace moed {
namespace {

int Fail(const absl::Status& status) {
  std::cerr << "moedctl: " << status.message() << std::endl;
  return kExitFailure;
}

CommandStreams StandardStreams() {
  const bool is_terminal = ::isatty(STDOUT_FILENO) == 1;
  const bool is_utf8 = std::string(::nl_langinfo(CODESET)) == "UTF-8";
  return {.out = std::cout,
          .err = std::cerr,
          .charset = is_terminal && is_utf8 ? Charset::kUtf8 : Charset::kAscii,
          .out_is_terminal = is_terminal};
}

int ShowTokenLine(const TokenFlags& flags) {
  const absl::StatusOr<std::string> token_line = MakeTokenLine(flags);
  if (!token_line.ok()) return Fail(token_line.status());
  std::cout << *token_line << std::flush;
  return kExitOk;
}

int Run(const CommandLine& line) {
  if (line.command == "token") return ShowTokenLine(line.token);  // needs no server
  // Up to here Ctrl-C ends the program by itself, also while it waits for its input.
  const absl::StatusOr<std::string> input = ReadCommandInput(line, std::cin);
  if (!input.ok()) return Fail(input.status());
  BlockInterrupts();
  absl::StatusOr<std::unique_ptr<Connection>> connection = Connection::Create(line.connection);
  if (!connection.ok()) return Fail(connection.status());
  const absl::StatusOr<std::unique_ptr<InterruptWatcher>> watcher =
      InterruptWatcher::Create([&connection] {
        // A second one: somebody is in a hurry.
        if ((*connection)->interrupted()) ::_exit(kExitInterrupted);
        (*connection)->Interrupt();
      });
  if (!watcher.ok()) return Fail(watcher.status());
  if (line.command == "top") return RunTop(line, **connection, StandardStreams());
  return RunCommand(line, *input, **connection, StandardStreams());
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) {
  std::setlocale(LC_CTYPE, "");
  ::setenv("GRPC_VERBOSITY", "NONE", /*replace=*/0);  // failures are told in our own words
  const std::variant<moed::CommandLine, int> line = moed::ParseCommandLine(argc, argv);
  if (const int* exit_code = std::get_if<int>(&line)) return *exit_code;
  return moed::Run(std::get<moed::CommandLine>(line));
}
