#include "server/auth/token_table.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

constexpr size_t kMaxTokens = 4096;
constexpr size_t kMaxTenantBytes = 64;
constexpr double kMaxRate = 1e12;
constexpr absl::string_view kInference = "moed.v1.InferenceService/";
constexpr absl::string_view kAdmin = "moed.v1.AdminService/";
constexpr absl::string_view kHashPrefix = "sha256:";

using Words = std::vector<absl::string_view>;

// It appears in logs and metrics.
bool IsTenantName(absl::string_view name) {
  return !name.empty() && name.size() <= kMaxTenantBytes &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

}  // namespace

// One reading of one text: gathers tenants and tokens, then joins them.
class TokenTableParser {
 public:
  TokenTableParser(const std::string& source, std::span<const std::string> methods)
      : source_(source), methods_(methods) {}

  absl::StatusOr<TokenTable> Parse(absl::string_view text) {
    for (const absl::string_view line : absl::StrSplit(text, '\n')) {
      ++line_number_;
      const Words words = absl::StrSplit(line, absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
      if (words.empty() || words[0][0] == '#') continue;
      MOED_RETURN_IF_ERROR(ParseLine(words));
    }
    if (table_.entries_.empty()) {
      return absl::InvalidArgumentError(absl::StrFormat("token file %s holds no token", source_));
    }
    for (TokenTable::Entry& entry : table_.entries_) {
      if (const auto it = limits_.find(entry.grant.tenant); it != limits_.end()) {
        entry.grant.limits = it->second;
      }
    }
    return std::move(table_);
  }

 private:
  // Never shows a line's words: a plain token may stand there by mistake.
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrFormat("token file %s, line %d: %s", source_, line_number_, what));
  }

  absl::Status ParseLine(const Words& words) {
    if (words[0] != "tenant" && words[0] != "token") {
      return Error("expected 'tenant NAME ...' or 'token NAME sha256:HEX ...'");
    }
    if (words.size() < 2 || !IsTenantName(words[1])) {
      return Error(absl::StrFormat(
          "a tenant's name has 1 to %d letters, digits and any of '-', '_', '.'", kMaxTenantBytes));
    }
    return words[0] == "tenant" ? ParseTenant(words) : ParseToken(words);
  }

  absl::Status ParseTenant(const Words& words) {
    TenantLimits limits;
    for (size_t i = 2; i < words.size(); ++i) MOED_RETURN_IF_ERROR(ParseLimit(words[i], limits));
    if (!limits_.emplace(std::string(words[1]), limits).second) {
      return Error("a second line of limits for this tenant");
    }
    return absl::OkStatus();
  }

  absl::Status ParseLimit(absl::string_view word, TenantLimits& limits) const {
    const std::pair<absl::string_view, absl::string_view> parts = absl::StrSplit(word, '=');
    if (parts.first == "max_concurrent") {
      if (absl::SimpleAtoi(parts.second, &limits.max_concurrent) && limits.max_concurrent > 0) {
        return absl::OkStatus();
      }
      return Error("max_concurrent: expected a whole number above 0");
    }
    double* rate = nullptr;
    if (parts.first == "requests_per_second") rate = &limits.requests_per_second;
    if (parts.first == "tokens_per_minute") rate = &limits.tokens_per_minute;
    if (rate == nullptr) {
      return Error("expected requests_per_second=X, tokens_per_minute=X or max_concurrent=N");
    }
    if (absl::SimpleAtod(parts.second, rate) && std::isfinite(*rate) && *rate > 0 &&
        *rate <= kMaxRate) {
      return absl::OkStatus();
    }
    return Error(absl::StrFormat("%s: expected a number above 0", parts.first));
  }

  absl::Status ParseToken(const Words& words) {
    const std::optional<TokenHash> hash =
        words.size() > 2 && absl::StartsWith(words[2], kHashPrefix)
            ? ParseTokenHash(words[2].substr(kHashPrefix.size()))
            : std::nullopt;
    if (!hash) return Error("expected sha256: and 64 hexadecimal digits after the tenant's name");
    for (const TokenTable::Entry& entry : table_.entries_) {
      if (entry.hash == *hash) return Error("this token stands in an earlier line as well");
    }
    if (table_.entries_.size() == kMaxTokens) {
      return Error(absl::StrFormat("more than %d tokens", kMaxTokens));
    }
    TokenGrant grant{.tenant = std::string(words[1])};
    absl::string_view methods = "methods=inference";
    if (words.size() > 3) methods = words[3];
    if (words.size() > 4 || !absl::ConsumePrefix(&methods, "methods=")) {
      return Error("expected methods=M,M,... and nothing else after the hash");
    }
    MOED_RETURN_IF_ERROR(ParseMethods(methods, grant.methods));
    table_.entries_.push_back({.hash = *hash, .grant = std::move(grant)});
    return absl::OkStatus();
  }

  absl::Status ParseMethods(absl::string_view list, std::vector<std::string>& out) const {
    for (const absl::string_view word : absl::StrSplit(list, ',')) {
      const size_t num_before = out.size();
      for (const std::string& method : methods_) {
        if (IsMeant(word, method)) out.push_back(method);
      }
      if (out.size() == num_before) {
        return Error(
            absl::StrFormat("methods: '%s' is no method; expected inference, admin, all "
                            "or a method such as Generate",
                            word.substr(0, 64)));
      }
    }
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
    return absl::OkStatus();
  }

  static bool IsMeant(absl::string_view word, absl::string_view method) {
    if (word == "all" || word == method) return true;
    if (word == "inference") return absl::StartsWith(method, kInference);
    if (word == "admin") return absl::StartsWith(method, kAdmin);
    return word == method.substr(method.find('/') + 1);
  }

  const std::string& source_;
  const std::span<const std::string> methods_;
  int line_number_ = 0;
  absl::flat_hash_map<std::string, TenantLimits> limits_;  // by tenant
  TokenTable table_;
};

absl::StatusOr<TokenTable> TokenTable::Parse(absl::string_view text, const std::string& source,
                                             std::span<const std::string> methods) {
  return TokenTableParser(source, methods).Parse(text);
}

const TokenGrant* TokenTable::Find(absl::string_view token) const {
  const TokenHash hash = HashToken(token);
  const TokenGrant* found = nullptr;
  for (const Entry& entry : entries_) {
    if (EqualInConstantTime(hash, entry.hash)) found = &entry.grant;
  }
  return found;
}

bool TokenGrant::Allows(absl::string_view full_method) const {
  return std::binary_search(methods.begin(), methods.end(), full_method);
}

}  // namespace moed
