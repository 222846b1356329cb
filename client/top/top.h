#pragma once

#include "client/command_line.h"
#include "client/commands.h"
#include "client/connection.h"

namespace moed {

/// `moedctl top`: asks the server again and again and draws what it says, until q is pressed or it
/// is interrupted. On a terminal that can draw the picture stays in place; else, and with --once,
/// pictures are printed as text. Returns the exit code; blocks.
int RunTop(const CommandLine& line, Connection& connection, const CommandStreams& streams);

}  // namespace moed
