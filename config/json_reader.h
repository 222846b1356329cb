#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moed {

/// An inclusive range that a number of a JSON file must lie in.
struct IntRange {
  int64_t min = std::numeric_limits<int64_t>::min();
  int64_t max = std::numeric_limits<int64_t>::max();
};
struct NumberRange {
  double min = std::numeric_limits<double>::lowest();
  double max = std::numeric_limits<double>::max();
};

/// Reads typed values out of one JSON object. A value; cheap to copy; not thread-safe.
///
/// Getters never fail on their own: the first thing that is wrong is kept, shared by a reader and
/// all its children, and returned by status(); getters then go on to return the fallback (or 0, ""
/// and so on). So code that reads an object is a plain list of its fields with one check at the
/// end:
///
///   MOED_ASSIGN_OR_RETURN(JsonReader json, JsonReader::Parse(text, "config.json"));
///   config.hidden_size = json.Int("hidden_size", {1, 1 << 20});
///   config.eps = json.NumberOr("rms_norm_eps", {0, 1}, 1e-6);
///   MOED_RETURN_IF_ERROR(json.status());
///
/// Errors are INVALID_ARGUMENT and name the file, the path of the key, what was expected and what
/// was seen: "config.json: key 'rope_scaling.factor': expected a number, got string \"abc\"". In a
/// getter with a fallback, a key that is missing and one that is null are the same.
class JsonReader {
 public:
  /// `text` must be one JSON object without duplicate keys, nested at most 64 deep. `source` (a
  /// file name) begins every error message.
  static absl::StatusOr<JsonReader> Parse(absl::string_view text, std::string source);

  /// True if the key is there and not null.
  bool Has(absl::string_view key) const;
  std::vector<std::string> Keys() const;  // sorted

  int64_t Int(absl::string_view key, IntRange range = {}) const;
  int64_t IntOr(absl::string_view key, IntRange range, int64_t fallback) const;
  double Number(absl::string_view key, NumberRange range = {}) const;
  double NumberOr(absl::string_view key, NumberRange range, double fallback) const;
  bool BoolOr(absl::string_view key, bool fallback) const;
  std::string String(absl::string_view key) const;
  std::string StringOr(absl::string_view key, absl::string_view fallback) const;

  /// Empty when missing or null.
  std::vector<int64_t> IntList(absl::string_view key, IntRange range = {}) const;
  std::vector<std::string> StringList(absl::string_view key) const;
  /// As IntList, but a bare integer is a list of one.
  std::vector<int64_t> IntOrIntList(absl::string_view key, IntRange range = {}) const;

  /// The object at `key`, or nothing when it is missing or null.
  std::optional<JsonReader> Object(absl::string_view key) const;
  /// The objects of the array at `key`; empty when missing or null.
  std::vector<JsonReader> ObjectList(absl::string_view key) const;

  /// Fails with the first key that is not in `known`.
  void RefuseUnknownKeys(std::span<const absl::string_view> known) const;

  /// The JSON text of the value at `key`, cut to a length fit for a message; "nothing" when
  /// missing.
  std::string Describe(absl::string_view key) const;
  /// "config.json: key 'rope_scaling.factor'", the beginning of messages about `key`.
  std::string Where(absl::string_view key) const;
  /// Records `status` unless something failed before.
  void Fail(absl::Status status) const;
  /// Records INVALID_ARGUMENT "<where>: expected <expected>, got <value>".
  void FailExpected(absl::string_view key, absl::string_view expected) const;

  /// The first error of this reader, its parents and its children.
  absl::Status status() const;

 private:
  struct Document;

  JsonReader(std::shared_ptr<Document> document, const void* node, std::string path);

  // Shared because children must keep the parsed text alive and report to the same first error.
  std::shared_ptr<Document> document_;
  const void* node_;  // a nlohmann::json object inside *document_
  std::string path_;  // "" for the root, else ends with '.'
};

}  // namespace moed
