#include "client/load/report/compare.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/load/stats/significance.h"
#include "client/text_table.h"
#include "config/base/status_macros.h"

namespace moed::load {
namespace {

using nlohmann::json;

const json* Find(const json& value, const std::vector<const char*>& path) {
  const json* at = &value;
  for (const char* key : path) {
    if (!at->is_object()) return nullptr;
    const auto found = at->find(key);
    if (found == at->end()) return nullptr;
    at = &*found;
  }
  return at;
}

absl::StatusOr<std::vector<double>> SamplesOf(const json& figure, const std::string& name) {
  const json* values = Find(figure, {"values"});
  std::vector<double> samples;
  if (values != nullptr && values->is_array()) {
    for (const json& value : *values) {
      if (value.is_number()) samples.push_back(value.get<double>());
    }
  }
  if (samples.empty() || samples.size() != values->size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("moed.samples.figures.", name, " holds no list of numbers \"values\""));
  }
  return samples;
}

bool IsHigherBetter(const std::string& name) {
  return absl::EndsWith(name, "_throughput") || absl::EndsWith(name, "_goodput");
}

void WarnOf(const json& result, const char* which, std::vector<std::string>& warnings) {
  const json* valid = Find(result, {"moed", "valid"});
  if (valid == nullptr || *valid != true) {
    warnings.push_back(absl::StrCat("the ", which, " result is not valid (moed.invalid_reasons)"));
  }
  const json* failed = Find(result, {"failed"});
  if (failed != nullptr && failed->is_number() && failed->get<double>() > 0) {
    warnings.push_back(
        absl::StrCat("the ", which, " result has failed requests: ", failed->dump()));
  }
}

// Results of different loads differ for that reason alone.
void WarnOfLoad(const json& before, const json& after, std::vector<std::string>& warnings) {
  const json* a = Find(before, {"moed", "load"});
  const json* b = Find(after, {"moed", "load"});
  if (a == nullptr || b == nullptr || !a->is_object() || !b->is_object()) return;
  for (const auto& [key, value] : a->items()) {
    const auto other = b->find(key);
    if (other == b->end() || *other != value) {
      warnings.push_back(absl::StrCat("the loads differ in ", key, ": ", value.dump(), " and ",
                                      other == b->end() ? "nothing" : other->dump()));
    }
  }
  for (const auto& [key, value] : b->items()) {
    if (a->contains(key)) continue;
    warnings.push_back(absl::StrCat("the loads differ in ", key, ": nothing and ", value.dump()));
  }
}

Verdict Judge(const FigureChange& figure, const CompareOptions& options) {
  if (figure.p >= options.alpha || std::abs(figure.change) < options.min_change) {
    return Verdict::kUnchanged;
  }
  return (figure.change > 0) == IsHigherBetter(figure.name) ? Verdict::kBetter : Verdict::kWorse;
}

const char* Name(Verdict verdict) {
  switch (verdict) {
    case Verdict::kUnchanged:
      return "same";
    case Verdict::kBetter:
      return "better";
    case Verdict::kWorse:
      return "WORSE";
    case Verdict::kUnknown:
      return "too few samples";
  }
  return "";
}

}  // namespace

bool Comparison::HasWorse() const {
  return std::any_of(figures.begin(), figures.end(),
                     [](const FigureChange& f) { return f.verdict == Verdict::kWorse; });
}

absl::StatusOr<Comparison> Compare(const json& before, const json& after,
                                   const CompareOptions& options) {
  const json* a = Find(before, {"moed", "samples", "figures"});
  const json* b = Find(after, {"moed", "samples", "figures"});
  if (a == nullptr || b == nullptr || !a->is_object() || !b->is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the ", a == nullptr || !a->is_object() ? "first" : "second",
                     " file is no result of moed-load with samples (moed.samples.figures); was the "
                     "run long enough?"));
  }
  Comparison comparison;
  WarnOf(before, "first", comparison.warnings);
  WarnOf(after, "second", comparison.warnings);
  WarnOfLoad(before, after, comparison.warnings);
  std::vector<double> p_values;
  std::vector<bool> is_known;
  for (const auto& [name, figure] : a->items()) {
    const auto other = b->find(name);
    if (other == b->end()) continue;
    MOED_ASSIGN_OR_RETURN(const std::vector<double> x, SamplesOf(figure, name));
    MOED_ASSIGN_OR_RETURN(const std::vector<double> y, SamplesOf(*other, name));
    const SampleMoments of_x = MomentsOf(x);
    const SampleMoments of_y = MomentsOf(y);
    if (of_x.mean == 0 && of_y.mean == 0) continue;  // e.g. goodput without limits
    const double change = of_x.mean != 0 ? of_y.mean / of_x.mean - 1 : 1;
    comparison.figures.push_back({name, of_x.mean, of_y.mean, change});
    p_values.push_back(WelchP(of_x, of_y));
    is_known.push_back(of_x.count > 1 && of_y.count > 1);
  }
  const std::vector<double> adjusted = HolmAdjusted(p_values);
  for (size_t i = 0; i < adjusted.size(); ++i) {
    FigureChange& figure = comparison.figures[i];
    figure.p = adjusted[i];
    figure.verdict = is_known[i] ? Judge(figure, options) : Verdict::kUnknown;
  }
  return comparison;
}

std::string FormatComparison(const Comparison& comparison) {
  using Align = TextTable::Align;
  TextTable table({{"figure", Align::kLeft},
                   {"before"},
                   {"after"},
                   {"change"},
                   {"p"},
                   {"verdict", Align::kLeft}});
  for (const FigureChange& figure : comparison.figures) {
    table.AddRow(
        {figure.name, absl::StrFormat("%.2f", figure.before), absl::StrFormat("%.2f", figure.after),
         absl::StrFormat("%+.1f%%", 100 * figure.change),
         figure.p < 0.0001 ? "<0.0001" : absl::StrFormat("%.4f", figure.p), Name(figure.verdict)});
  }
  std::string out = table.ToString();
  for (const std::string& warning : comparison.warnings)
    absl::StrAppend(&out, "warning: ", warning, "\n");
  return out;
}

nlohmann::ordered_json ToJson(const Comparison& comparison) {
  nlohmann::ordered_json out = {{"worse", comparison.HasWorse()},
                                {"warnings", comparison.warnings},
                                {"figures", nlohmann::ordered_json::array()}};
  for (const FigureChange& figure : comparison.figures) {
    out["figures"].push_back({{"name", figure.name},
                              {"before", figure.before},
                              {"after", figure.after},
                              {"change", figure.change},
                              {"p", figure.p},
                              {"verdict", Name(figure.verdict)}});
  }
  return out;
}

}  // namespace moed::load
