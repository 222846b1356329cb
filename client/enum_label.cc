#include "client/enum_label.h"

#include "absl/strings/ascii.h"
#include "absl/strings/strip.h"

namespace moed {
namespace {

std::string StripAndLower(const std::string& name, const char* prefix) {
  return absl::AsciiStrToLower(absl::StripPrefix(name, prefix));
}

}  // namespace

std::string Label(v1::ServingState state) {
  return StripAndLower(v1::ServingState_Name(state), "SERVING_STATE_");
}

std::string Label(v1::FinishReason reason) {
  return StripAndLower(v1::FinishReason_Name(reason), "FINISH_REASON_");
}

}  // namespace moed
