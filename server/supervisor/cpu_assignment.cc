#include "server/supervisor/cpu_assignment.h"

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "server/supervisor/cpu_quota.h"

namespace moed {
namespace {

constexpr int kMaxCpus = 8192;  // of any Linux build

}  // namespace

absl::StatusOr<std::vector<int32_t>> AllowedCpus() {
  const size_t set_bytes = CPU_ALLOC_SIZE(kMaxCpus);
  const auto free_set = [](cpu_set_t* set) { CPU_FREE(set); };
  const std::unique_ptr<cpu_set_t, decltype(free_set)> set(CPU_ALLOC(kMaxCpus), free_set);
  CPU_ZERO_S(set_bytes, set.get());
  if (::sched_getaffinity(0, set_bytes, set.get()) != 0) {
    return absl::InternalError(
        absl::StrCat("asking for the CPUs of this process: ", std::strerror(errno)));
  }
  std::vector<int32_t> cpus;
  for (int32_t cpu = 0; cpu < kMaxCpus; ++cpu) {
    if (CPU_ISSET_S(cpu, set_bytes, set.get())) cpus.push_back(cpu);
  }
  return cpus;
}

absl::StatusOr<int32_t> NumUsableCpus() {
  MOED_ASSIGN_OR_RETURN(const std::vector<int32_t> cpus, AllowedCpus());
  const double allowed = static_cast<double>(cpus.size());
  return static_cast<int32_t>(std::max(1.0, std::min(allowed, CpuQuota().value_or(allowed))));
}

std::vector<std::vector<int32_t>> AssignCpus(const std::vector<int32_t>& allowed, int32_t num_ranks,
                                             int32_t threads_per_rank) {
  std::vector<std::vector<int32_t>> cpus_per_rank(static_cast<size_t>(num_ranks));
  const size_t threads = static_cast<size_t>(threads_per_rank);
  if (threads_per_rank < 1 || allowed.size() / threads < cpus_per_rank.size()) return cpus_per_rank;
  auto next = allowed.begin();
  for (std::vector<int32_t>& cpus : cpus_per_rank) {
    cpus.assign(next, next + threads_per_rank);
    next += threads_per_rank;
  }
  return cpus_per_rank;
}

}  // namespace moed
