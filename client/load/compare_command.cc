#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "client/load/load_command.h"
#include "client/load/report/compare.h"
#include "client/message_json.h"
#include "config/base/status_macros.h"

namespace moed::load {
namespace {

absl::StatusOr<nlohmann::json> ReadResult(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) return absl::NotFoundError(absl::StrCat("reading ", path, ": ", std::strerror(errno)));
  nlohmann::json result = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (result.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(path, ": is no JSON"));
  return result;
}

absl::StatusOr<Comparison> CompareFiles(const CompareFlags& flags) {
  MOED_ASSIGN_OR_RETURN(const nlohmann::json before, ReadResult(flags.before));
  MOED_ASSIGN_OR_RETURN(const nlohmann::json after, ReadResult(flags.after));
  return Compare(before, after, {.alpha = flags.alpha, .min_change = flags.min_change});
}

}  // namespace

int RunCompare(const CompareFlags& flags, const LoadStreams& streams) {
  const absl::StatusOr<Comparison> comparison = CompareFiles(flags);
  if (!comparison.ok()) {
    streams.err << "moed-load: compare: " << comparison.status().message() << std::endl;
    return kExitFailure;
  }
  if (flags.json) {
    streams.out << DumpJson(ToJson(*comparison)) << std::endl;
  } else {
    streams.out << FormatComparison(*comparison) << std::flush;
  }
  return comparison->HasWorse() ? kExitWorse : kExitOk;
}

}  // namespace moed::load
