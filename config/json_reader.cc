#include "config/json_reader.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

using Json = nlohmann::json;

constexpr int kMaxDepth = 64;
constexpr size_t kMaxDescribedBytes = 60;

// Walks a text before it becomes a tree: finds syntax errors, duplicate keys and too deep nesting.
class SyntaxChecker : public nlohmann::json_sax<Json> {
 public:
  const std::string& error() const { return error_; }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return Enter(); }
  bool key(string_t& key) override {
    if (keys_of_level_.back().insert(key).second) return true;
    error_ = absl::StrCat("duplicate key '", key, "'");
    return false;
  }
  bool end_object() override { return Leave(); }
  bool start_array(std::size_t) override { return Enter(); }
  bool end_array() override { return Leave(); }
  bool parse_error(std::size_t position, const std::string& last_token,
                   const nlohmann::detail::exception&) override {
    error_ = absl::StrCat("not JSON at byte ", position, ", near '",
                          last_token.substr(0, kMaxDescribedBytes), "'");
    return false;
  }

 private:
  bool Enter() {
    keys_of_level_.emplace_back();
    if (keys_of_level_.size() <= kMaxDepth) return true;
    error_ = absl::StrCat("nested deeper than ", kMaxDepth, " levels");
    return false;
  }
  bool Leave() {
    keys_of_level_.pop_back();
    return true;
  }

  std::vector<std::unordered_set<std::string>> keys_of_level_;
  std::string error_;
};

const Json* FindNonNull(const void* node, absl::string_view key) {
  const Json& object = *static_cast<const Json*>(node);
  const auto it = object.find(std::string(key));
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string Shortened(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxDescribedBytes) text = text.substr(0, kMaxDescribedBytes) + "...";
  return value.is_number() ? text : absl::StrCat(value.type_name(), " ", text);
}

std::optional<int64_t> AsInt(const Json& value, IntRange range) {
  if (!value.is_number_integer()) return std::nullopt;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return std::nullopt;
  }
  const auto number = value.get<int64_t>();
  if (number < range.min || number > range.max) return std::nullopt;
  return number;
}

std::string Describe(IntRange range) {
  const IntRange any;
  if (range.min == any.min && range.max == any.max) return "an integer";
  if (range.max == any.max) return absl::StrCat("an integer of at least ", range.min);
  return absl::StrCat("an integer from ", range.min, " to ", range.max);
}

std::string Describe(NumberRange range) {
  const NumberRange any;
  if (range.min == any.min && range.max == any.max) return "a number";
  if (range.max == any.max) return absl::StrFormat("a number of at least %g", range.min);
  return absl::StrFormat("a number from %g to %g", range.min, range.max);
}

}  // namespace

struct JsonReader::Document {
  std::string source;
  Json root;
  absl::Status first_error;
};

JsonReader::JsonReader(std::shared_ptr<Document> document, const void* node, std::string path)
    : document_(std::move(document)), node_(node), path_(std::move(path)) {}

absl::StatusOr<JsonReader> JsonReader::Parse(absl::string_view text, std::string source) {
  SyntaxChecker checker;
  if (!Json::sax_parse(text.begin(), text.end(), &checker)) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", checker.error()));
  }
  auto document = std::make_shared<Document>();
  document->root = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!document->root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": expected a JSON object, got ", Shortened(document->root)));
  }
  document->source = std::move(source);
  const void* root = &document->root;
  return JsonReader(std::move(document), root, "");
}

bool JsonReader::Has(absl::string_view key) const { return FindNonNull(node_, key) != nullptr; }

std::vector<std::string> JsonReader::Keys() const {
  std::vector<std::string> keys;
  for (const auto& item : static_cast<const Json*>(node_)->items()) keys.push_back(item.key());
  return keys;
}

int64_t JsonReader::Int(absl::string_view key, IntRange range) const {
  if (!Has(key)) FailExpected(key, moed::Describe(range));
  return IntOr(key, range, 0);
}

int64_t JsonReader::IntOr(absl::string_view key, IntRange range, int64_t fallback) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return fallback;
  const std::optional<int64_t> number = AsInt(*value, range);
  if (!number) FailExpected(key, moed::Describe(range));
  return number.value_or(fallback);
}

double JsonReader::Number(absl::string_view key, NumberRange range) const {
  if (!Has(key)) FailExpected(key, moed::Describe(range));
  return NumberOr(key, range, 0);
}

double JsonReader::NumberOr(absl::string_view key, NumberRange range, double fallback) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return fallback;
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (number >= range.min && number <= range.max) return number;
  FailExpected(key, moed::Describe(range));
  return fallback;
}

bool JsonReader::BoolOr(absl::string_view key, bool fallback) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  FailExpected(key, "true or false");
  return fallback;
}

std::string JsonReader::String(absl::string_view key) const {
  if (!Has(key)) FailExpected(key, "a string");
  return StringOr(key, "");
}

std::string JsonReader::StringOr(absl::string_view key, absl::string_view fallback) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return std::string(fallback);
  if (value->is_string()) return value->get<std::string>();
  FailExpected(key, "a string");
  return std::string(fallback);
}

std::vector<int64_t> JsonReader::IntList(absl::string_view key, IntRange range) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return {};
  std::vector<int64_t> list;
  if (value->is_array()) {
    for (const Json& item : *value) {
      const std::optional<int64_t> number = AsInt(item, range);
      if (!number) break;
      list.push_back(*number);
    }
    if (list.size() == value->size()) return list;
  }
  FailExpected(key, absl::StrCat("a list, each ", moed::Describe(range)));
  return {};
}

std::vector<std::string> JsonReader::StringList(absl::string_view key) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return {};
  std::vector<std::string> list;
  if (value->is_array()) {
    for (const Json& item : *value) {
      if (!item.is_string()) break;
      list.push_back(item.get<std::string>());
    }
    if (list.size() == value->size()) return list;
  }
  FailExpected(key, "a list of strings");
  return {};
}

std::vector<int64_t> JsonReader::IntOrIntList(absl::string_view key, IntRange range) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr || value->is_array()) return IntList(key, range);
  return {IntOr(key, range, 0)};
}

std::optional<JsonReader> JsonReader::Object(absl::string_view key) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object()) return JsonReader(document_, value, absl::StrCat(path_, key, "."));
  FailExpected(key, "an object");
  return std::nullopt;
}

std::vector<JsonReader> JsonReader::ObjectList(absl::string_view key) const {
  const Json* value = FindNonNull(node_, key);
  if (value == nullptr) return {};
  std::vector<JsonReader> list;
  if (value->is_array()) {
    for (const Json& item : *value) {
      if (!item.is_object()) break;
      list.push_back(
          JsonReader(document_, &item, absl::StrCat(path_, key, "[", list.size(), "].")));
    }
    if (list.size() == value->size()) return list;
  }
  FailExpected(key, "a list of objects");
  return {};
}

void JsonReader::RefuseUnknownKeys(std::span<const absl::string_view> known) const {
  for (const auto& item : static_cast<const Json*>(node_)->items()) {
    if (std::find(known.begin(), known.end(), item.key()) == known.end()) {
      Fail(absl::InvalidArgumentError(absl::StrCat(Where(item.key()), ": this key is not known")));
      return;
    }
  }
}

std::string JsonReader::Describe(absl::string_view key) const {
  const Json& object = *static_cast<const Json*>(node_);
  const auto it = object.find(std::string(key));
  return it == object.end() ? "nothing" : Shortened(*it);
}

std::string JsonReader::Where(absl::string_view key) const {
  return absl::StrCat(document_->source, ": key '", path_, key, "'");
}

void JsonReader::Fail(absl::Status status) const {
  document_->first_error.Update(std::move(status));
}

void JsonReader::FailExpected(absl::string_view key, absl::string_view expected) const {
  Fail(absl::InvalidArgumentError(
      absl::StrCat(Where(key), ": expected ", expected, ", got ", Describe(key))));
}

absl::Status JsonReader::status() const { return document_->first_error; }

}  // namespace moed
