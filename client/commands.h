#pragma once

#include <istream>
#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "client/command_line.h"
#include "client/connection.h"
#include "client/text_table.h"

namespace moed {

/// Where a command writes; of main or of a test, must outlive the command.
struct CommandStreams {
  std::ostream& out;
  std::ostream& err;
  Charset charset = Charset::kAscii;  // of out
  bool out_is_terminal = false;
};

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

/// The text that the command works on, read before anything is connected; "" for a command without
/// one.
absl::StatusOr<std::string> ReadCommandInput(const CommandLine& line, std::istream& in);

/// Does what the command line asks for, on `input`, over `connection`; blocks. Returns the exit
/// code; every failure has been told on streams.err.
int RunCommand(const CommandLine& line, const std::string& input, Connection& connection,
               const CommandStreams& streams);

}  // namespace moed
