#include "server/tokenizer/tokenizer_file.h"

#include <nlohmann/json.hpp>

#include "config/base/status_macros.h"
#include "server/tokenizer/concat.h"

namespace moed {
namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 64;

/// Receives parser events: model.vocab and model.merges, which make up nearly all of the file, go
/// straight into vectors; the rest becomes a document. Lives while one file is parsed.
class TokenizerFileEvents : public json::json_sax_t {
 public:
  bool null() override { return Value(nullptr); }
  bool boolean(bool value) override { return Value(value); }
  bool number_integer(json::number_integer_t value) override { return Number(value); }
  bool number_unsigned(json::number_unsigned_t value) override { return Number(value); }
  bool number_float(json::number_float_t value, const std::string&) override {
    return Value(value);
  }
  bool binary(json::binary_t&) override { return Fail("unexpected binary value"); }

  bool string(std::string& value) override {
    switch (place_) {
      case Place::kDocument:
        return Value(std::move(value));
      case Place::kVocab:
        return Fail(Concat({"model.vocab: \"", key_, "\" has a string instead of an id"}));
      case Place::kMerges:
        return MergeLine(value);
      case Place::kMergePair:
        pair_.push_back(std::move(value));
        return pair_.size() <= 2 || Fail("model.merges: an entry has more than two parts");
    }
    return false;
  }

  bool start_object(size_t) override {
    if (place_ != Place::kDocument) return Unexpected("an object");
    if (IsModelField("vocab")) {
      place_ = Place::kVocab;
      return true;
    }
    return Open(json::object());
  }

  bool end_object() override {
    if (place_ == Place::kVocab) {
      place_ = Place::kDocument;
    } else {
      open_.pop_back();
    }
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::kMerges) {
      place_ = Place::kMergePair;
      pair_.clear();
      return true;
    }
    if (place_ != Place::kDocument) return Unexpected("an array");
    if (IsModelField("merges")) {
      place_ = Place::kMerges;
      return true;
    }
    return Open(json::array());
  }

  bool end_array() override {
    if (place_ == Place::kMerges) {
      place_ = Place::kDocument;
    } else if (place_ == Place::kMergePair) {
      place_ = Place::kMerges;
      if (pair_.size() != 2) return Fail("model.merges: an entry does not have two parts");
      merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
    } else {
      open_.pop_back();
    }
    return true;
  }

  bool key(std::string& value) override {
    key_ = std::move(value);
    return true;
  }

  bool parse_error(size_t, const std::string&, const json::exception& error) override {
    return Fail(error.what());
  }

  std::vector<std::pair<std::string, int64_t>> vocab;
  std::vector<std::pair<std::string, std::string>> merges;
  json document;
  std::string error;

 private:
  enum class Place { kDocument, kVocab, kMerges, kMergePair };

  bool Fail(std::string what) {
    error = std::move(what);
    return false;
  }

  bool Unexpected(std::string_view what) {
    return Fail(
        Concat({place_ == Place::kVocab ? "model.vocab" : "model.merges", ": unexpected ", what}));
  }

  /// Whether the value that starts now is `field` of the "model" object of the root.
  bool IsModelField(std::string_view field) const {
    return open_.size() == 2 && in_model_ && key_ == field;
  }

  template <typename Integer>
  bool Number(Integer value) {
    if (place_ != Place::kVocab) return Value(value);
    if (value < 0 || static_cast<uint64_t>(value) > INT32_MAX) {
      return Fail(Concat({"model.vocab: the id of \"", key_, "\" is out of range"}));
    }
    vocab.emplace_back(std::move(key_), static_cast<int64_t>(value));
    return true;
  }

  bool MergeLine(std::string_view line) {
    if (line.starts_with("#version")) return true;
    const size_t space = line.find(' ');
    if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
      return Fail(Concat({"model.merges: \"", line, "\" does not have two parts"}));
    }
    merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    return true;
  }

  /// Puts a value where the parser is in the document; returns its place.
  json* Put(json value) {
    if (open_.empty()) {
      document = std::move(value);
      return &document;
    }
    json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }

  template <typename T>
  bool Value(T&& value) {
    if (place_ != Place::kDocument) return Unexpected("value");
    Put(json(std::forward<T>(value)));
    return true;
  }

  bool Open(json container) {
    if (open_.size() >= kMaxDepth) return Fail("nested too deep");
    if (open_.size() == 1) in_model_ = open_[0]->is_object() && key_ == "model";
    open_.push_back(Put(std::move(container)));
    return true;
  }

  std::vector<json*> open_;  // the containers around the parser's place, outermost first
  bool in_model_ = false;    // whether open_[1] is the root's "model"
  Place place_ = Place::kDocument;
  std::string key_;
  std::vector<std::string> pair_;
};

}  // namespace

absl::StatusOr<TokenizerFile> ParseTokenizerFile(std::string_view text) {
  TokenizerFileEvents events;
  if (!json::sax_parse(text.begin(), text.end(), &events)) {
    return absl::InvalidArgumentError(Concat({"parsing tokenizer.json: ", events.error}));
  }
  MOED_ASSIGN_OR_RETURN(JsonReader components,
                        JsonReader::Parse(events.document.dump(), "tokenizer.json"));
  return TokenizerFile{std::move(events.vocab), std::move(events.merges), std::move(components)};
}

}  // namespace moed
