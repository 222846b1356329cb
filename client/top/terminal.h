#pragma once

#include <termios.h>

#include <optional>
#include <string>
#include <vector>

#include "client/top/top_view.h"

namespace moed {

/// A terminal that a program draws on: keys without Enter, a screen of its own, no cursor. The
/// destructor gives it back as it was.
///
/// Owned by the command; one thread.
class Terminal {
 public:
  /// Nothing when standard input or output is no terminal, or one that cannot draw (TERM is dumb or
  /// unset).
  static std::optional<Terminal> Open();
  Terminal(Terminal&& other) noexcept;
  Terminal& operator=(Terminal&&) = delete;
  ~Terminal();

  /// Its size now, with the charset and the colours it can show.
  TopScreen screen() const;

  /// Shows these lines and nothing else. False when it cannot be written to any more.
  [[nodiscard]] bool Show(const std::vector<std::string>& lines);

  /// The next key; nothing when there is none within `milliseconds`; 'q' when the input has ended.
  std::optional<char> ReadKey(int milliseconds);

 private:
  explicit Terminal(const termios& original) : original_(original) {}

  termios original_;
  bool is_owner_ = true;
};

}  // namespace moed
