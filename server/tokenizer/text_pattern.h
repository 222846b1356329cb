#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "config/json_reader.h"
#include "server/tokenizer/regex.h"

namespace moed {

/// Compiles the "pattern" field of a component: {"String": text} or {"Regex": expression}.
absl::StatusOr<std::unique_ptr<const Regex>> ReadPattern(const JsonReader& component);

/// Reads a field that holds exactly one character.
absl::StatusOr<char32_t> ReadCharacter(const JsonReader& component, const char* key);

}  // namespace moed
