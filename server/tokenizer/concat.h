#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

namespace moed {

/// The parts, one after the other. (absl::StrCat of Debian's build does not take
/// std::string_view.)
inline std::string Concat(std::initializer_list<std::string_view> parts) {
  std::string out;
  for (const std::string_view part : parts) out += part;
  return out;
}

}  // namespace moed
