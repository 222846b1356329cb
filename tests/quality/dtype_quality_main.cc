/// dtype-quality: how well a model foretells the text of standard input in each dtype.
/// Exit codes: 0 ok, 1 failure, 2 wrong usage.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "config/base/status_macros.h"
#include "tests/quality/dtype_quality.h"

namespace moed {
namespace {

absl::Status Run(const QualityOptions& options, int64_t num_last_tokens) {
  const std::string text(std::istreambuf_iterator<char>(std::cin), {});
  MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodeDocuments(options.model_dir, text));
  std::span<const int32_t> used = ids;
  if (num_last_tokens > 0) used = used.last(std::min<size_t>(num_last_tokens, used.size()));
  MOED_ASSIGN_OR_RETURN(const std::vector<DTypeQuality> qualities, MeasureQuality(options, used));
  std::printf("%zu tokens\n%s", used.size(), QualityTable(qualities).c_str());
  return absl::OkStatus();
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) {
  CLI::App app("dtype-quality: what each dtype makes of the text on standard input");
  moed::QualityOptions options{.dtypes = {"bf16", "f32", "int8", "int4"}};
  int64_t num_last_tokens = 0;
  app.add_option("--model", options.model_dir, "Model directory with a tokenizer")->required();
  app.add_option("--dtype", options.dtypes, "The first is what the others are held to")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--last", num_last_tokens, "Use only so many tokens at the end; 0: all");
  app.add_option("--threads", options.num_threads)->capture_default_str();
  app.add_option("--instruction-set", options.instruction_set, "Force the kernels' choice");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const absl::Status status = moed::Run(options, num_last_tokens);
  if (status.ok()) return 0;
  std::cerr << "dtype-quality: " << status.message() << "\n";
  return 1;
}
