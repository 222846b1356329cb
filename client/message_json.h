#pragma once

#include <google/protobuf/message.h>

#include <nlohmann/json.hpp>

namespace moed {

/// A message as JSON, under its field names. Numbers are numbers whatever their size, enums their
/// names, bytes text (U+FFFD for what is not UTF-8); what has no presence is shown with its
/// default.
nlohmann::ordered_json ToJson(const google::protobuf::Message& message);

/// The text of a JSON value for output: two blanks of indentation, never fails on invalid UTF-8.
std::string DumpJson(const nlohmann::ordered_json& json);

}  // namespace moed
