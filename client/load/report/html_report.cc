#include <utility>

#include "absl/strings/str_replace.h"
#include "client/load/report/result_text.h"

namespace moed::load {

extern const char kReportPage[];
extern const char kReportStyle[];
extern const char kReportScript[];

std::string FormatHtml(const nlohmann::ordered_json& result) {
  nlohmann::ordered_json shown = result;
  shown["moed"].erase("histograms_ns");
  for (const char* key : {"input_lens", "output_lens", "ttfts", "itls", "generated_texts", "errors",
                          "latencies", "start_times", "intended_times"}) {
    shown.erase(key);
  }
  std::string json = shown.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  // Within a script element nothing but its end tag and comments mean anything.
  json = absl::StrReplaceAll(json, {{"<", "\\u003c"}});
  return absl::StrReplaceAll(
      kReportPage,
      {{"/*STYLE*/", kReportStyle}, {"/*SCRIPT*/", kReportScript}, {"/*RESULT*/", json}});
}

}  // namespace moed::load
