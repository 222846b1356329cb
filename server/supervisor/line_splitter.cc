#include "server/supervisor/line_splitter.h"

namespace moed {

void LineSplitter::Append(absl::string_view bytes) {
  for (const char byte : bytes) {
    if (byte == '\n') {
      Flush();
    } else {
      Push(byte);
    }
  }
}

void LineSplitter::Push(char byte) {
  if (line_.size() >= kMaxLineBytes || byte == '\r') return;
  const bool is_control = static_cast<unsigned char>(byte) < 0x20 || byte == 0x7f;
  line_.push_back(is_control && byte != '\t' ? '?' : byte);
}

void LineSplitter::Flush() {
  if (line_.empty()) return;
  on_line_(line_);
  line_.clear();
}

}  // namespace moed
