#include "server/metrics/process_metrics.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "config/text_file.h"

namespace moed {
namespace {

// Fields of proc(5)'s stat, counted from the one after the command's name, which may hold blanks.
constexpr size_t kUserTicks = 11;
constexpr size_t kSystemTicks = 12;
constexpr size_t kNumThreads = 17;
constexpr size_t kStartTicks = 19;
constexpr size_t kVirtualBytes = 20;
constexpr size_t kResidentPages = 21;

// All fields as numbers; empty when the file is not as expected.
std::vector<double> ReadStat(const std::string& path) {
  const std::string text = ReadTextFile(path).value_or("");
  const size_t name_end = text.rfind(") ");
  if (name_end == std::string::npos) return {};
  std::vector<double> fields;
  for (const absl::string_view field :
       absl::StrSplit(absl::string_view(text).substr(name_end + 2), ' ', absl::SkipWhitespace())) {
    double value = 0;
    if (!absl::SimpleAtod(field, &value)) value = 0;  // the state is a letter
    fields.push_back(value);
  }
  return fields.size() > kResidentPages ? fields : std::vector<double>();
}

// Seconds since 1970 at which the machine started.
std::optional<double> BootTime() {
  const std::string text = ReadTextFile("/proc/stat").value_or("");
  const size_t at = text.find("\nbtime ");
  double seconds = 0;
  if (at == std::string::npos) return std::nullopt;
  const size_t begin = at + 7;
  if (!absl::SimpleAtod(text.substr(begin, text.find('\n', begin) - begin), &seconds)) {
    return std::nullopt;
  }
  return seconds;
}

std::optional<double> CountEntries(const std::string& directory) {
  std::error_code error;
  std::filesystem::directory_iterator entries(directory, error);
  if (error) return std::nullopt;
  return static_cast<double>(std::distance(entries, std::filesystem::directory_iterator()));
}

}  // namespace

ProcessMetrics::ProcessMetrics(MetricRegistry& registry, std::string proc)
    : proc_(std::move(proc)),
      cpu_seconds_(registry.OneCounter("process_cpu_seconds_total",
                                       "CPU time of the daemon, without its engines.")),
      resident_bytes_(registry.OneGauge("process_resident_memory_bytes",
                                        "Resident memory of the daemon, without its engines.")),
      virtual_bytes_(
          registry.OneGauge("process_virtual_memory_bytes", "Virtual memory of the daemon.")),
      start_time_(registry.OneGauge("process_start_time_seconds",
                                    "When the daemon started, in seconds since 1970.")),
      threads_(registry.OneGauge("process_threads", "Threads of the daemon.")),
      open_fds_(registry.OneGauge("process_open_fds", "Open file descriptors of the daemon.")),
      max_fds_(registry.OneGauge("process_max_fds", "Most of them it may open.")) {}

void ProcessMetrics::Update() {
  const double ticks_per_second = static_cast<double>(::sysconf(_SC_CLK_TCK));
  if (const std::vector<double> stat = ReadStat(proc_ + "/stat"); !stat.empty()) {
    RaiseTo(cpu_seconds_, (stat[kUserTicks] + stat[kSystemTicks]) / ticks_per_second);
    threads_.Set(stat[kNumThreads]);
    virtual_bytes_.Set(stat[kVirtualBytes]);
    resident_bytes_.Set(stat[kResidentPages] * static_cast<double>(::sysconf(_SC_PAGESIZE)));
    if (const std::optional<double> boot = BootTime()) {
      start_time_.Set(*boot + stat[kStartTicks] / ticks_per_second);
    }
  }
  if (const std::optional<double> open = CountEntries(proc_ + "/fd")) open_fds_.Set(*open);
  rlimit limit = {};
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) max_fds_.Set(static_cast<double>(limit.rlim_cur));
}

}  // namespace moed
