#pragma once

#include <string>
#include <vector>

namespace moed {

/// One thing that is wrong with a request: the path of the field and what is wrong with it.
struct FieldViolation {
  std::string field;        // e.g. "sampling.top_p", "stopping.stop[2]"
  std::string description;  // e.g. "is 1.5; expected a number in (0, 1]"

  bool operator==(const FieldViolation&) const = default;
};

using FieldViolations = std::vector<FieldViolation>;

}  // namespace moed
