#include "client/top/terminal.h"

#include <langinfo.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace moed {
namespace {

constexpr std::string_view kEnter = "\x1b[?1049h\x1b[?25l";  // other screen, no cursor
constexpr std::string_view kLeave = "\x1b[0m\x1b[?25h\x1b[?1049l";
constexpr char kHome[] = "\x1b[H";
constexpr char kClearLine[] = "\x1b[K";
constexpr char kClearBelow[] = "\x1b[J";

bool WriteAll(std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

std::string_view Environment(const char* name) {
  const char* value = ::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::optional<Terminal> Terminal::Open() {
  const std::string_view term = Environment("TERM");
  if (term.empty() || term == "dumb") return std::nullopt;
  termios original = {};
  if (::isatty(STDOUT_FILENO) != 1 || ::tcgetattr(STDIN_FILENO, &original) != 0)
    return std::nullopt;
  termios raw = original;
  raw.c_lflag &= static_cast<tcflag_t>(~(ICANON | ECHO));  // Ctrl-C stays a signal
  raw.c_cc[VMIN] = 0;
  raw.c_cc[VTIME] = 0;
  if (::tcsetattr(STDIN_FILENO, TCSANOW, &raw) != 0) return std::nullopt;
  Terminal terminal(original);
  if (!WriteAll(kEnter)) return std::nullopt;
  return terminal;
}

Terminal::Terminal(Terminal&& other) noexcept
    : original_(other.original_), is_owner_(std::exchange(other.is_owner_, false)) {}

Terminal::~Terminal() {
  if (!is_owner_) return;
  WriteAll(kLeave);
  ::tcsetattr(STDIN_FILENO, TCSANOW, &original_);
}

TopScreen Terminal::screen() const {
  TopScreen screen{.rows = 24};
  winsize size = {};
  if (::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    screen.columns = size.ws_col;
    screen.rows = size.ws_row;
  }
  if (std::string_view(::nl_langinfo(CODESET)) == "UTF-8") screen.charset = Charset::kUtf8;
  const std::string_view term = Environment("TERM");
  const bool has_colors = term.find("256color") != term.npos || !Environment("COLORTERM").empty();
  if (has_colors && Environment("NO_COLOR").empty()) screen.colors = Colors::k256;
  return screen;
}

bool Terminal::Show(const std::vector<std::string>& lines) {
  return WriteAll(absl::StrCat(kHome, absl::StrJoin(lines, absl::StrCat(kClearLine, "\r\n")),
                               kClearLine, kClearBelow));
}

std::optional<char> Terminal::ReadKey(int milliseconds) {
  pollfd input = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  if (::poll(&input, 1, milliseconds) <= 0) return std::nullopt;
  char key = 0;
  const ssize_t n = ::read(STDIN_FILENO, &key, 1);
  if (n == 1) return key;
  return n == 0 || errno != EINTR ? std::optional<char>('q') : std::nullopt;
}

}  // namespace moed
