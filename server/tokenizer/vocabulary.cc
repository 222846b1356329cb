#include "server/tokenizer/vocabulary.h"

#include <utility>

#include "server/tokenizer/concat.h"

namespace moed {
namespace {

absl::Status Refuse(std::string_view piece, int64_t id, std::string_view why) {
  return absl::InvalidArgumentError(Concat(
      {"reading tokenizer.json: token \"", piece, "\" with id ", std::to_string(id), ": ", why}));
}

absl::string_view Key(std::string_view piece) { return {piece.data(), piece.size()}; }

}  // namespace

absl::Status Vocabulary::Add(std::string piece, int64_t id) {
  if (id < 0 || id >= kMaxIds) return Refuse(piece, id, "the id is out of range");
  if (piece.empty()) return Refuse(piece, id, "the token is empty");
  const int32_t token = static_cast<int32_t>(id);
  if (Has(token)) {
    return Refuse(piece, id, Concat({"the id already belongs to \"", PieceOf(token), "\""}));
  }
  if (!ids_.emplace(piece, token).second) return Refuse(piece, id, "the token is listed twice");
  if (token >= size()) pieces_.resize(static_cast<size_t>(token) + 1);
  pieces_[token] = std::move(piece);
  return absl::OkStatus();
}

std::optional<int32_t> Vocabulary::IdOf(std::string_view piece) const {
  const auto it = ids_.find(Key(piece));
  if (it == ids_.end()) return std::nullopt;
  return it->second;
}

std::string_view Vocabulary::PieceOf(int32_t id) const {
  if (id < 0 || id >= size()) return {};
  return pieces_[id];
}

}  // namespace moed
