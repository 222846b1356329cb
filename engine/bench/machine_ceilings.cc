#include "engine/bench/machine_ceilings.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "engine/bench/ceiling_loops.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kMinTotalBytes = int64_t{512} << 20;     // far more than caches hold
constexpr int64_t kMinBytesPerThread = int64_t{32} << 20;  // likewise
constexpr int kNumPasses = 8;
constexpr int64_t kRounds = 1 << 20;  // some 10 ms of arithmetic

enum class Pages { kSmall, kHuge };

/// Memory whose pages nobody has touched yet.
class FreshMemory {
 public:
  static absl::StatusOr<FreshMemory> Map(int64_t bytes, Pages pages) {
    void* begin = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (begin == MAP_FAILED) {
      return absl::ResourceExhaustedError(
          absl::StrCat("measuring the machine: cannot map ", bytes, " bytes"));
    }
#ifdef MADV_HUGEPAGE
    // Advice: where it fails, all pages are alike.
    (void)madvise(begin, bytes + kHugePage,
                  pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    return FreshMemory(begin, bytes);
  }
  FreshMemory(FreshMemory&& other) noexcept
      : begin_(std::exchange(other.begin_, nullptr)), bytes_(other.bytes_) {}
  FreshMemory& operator=(FreshMemory&&) = delete;
  ~FreshMemory() {
    if (begin_ != nullptr) munmap(begin_, bytes_ + kHugePage);
  }

  /// The first address that can be of a huge page.
  char* data() const {
    const auto address = reinterpret_cast<uintptr_t>(begin_);
    return reinterpret_cast<char*>((address + kHugePage - 1) / kHugePage * kHugePage);
  }

 private:
  FreshMemory(void* begin, int64_t bytes) : begin_(begin), bytes_(bytes) {}

  void* begin_;
  int64_t bytes_;
};

/// Runs the same loop on several threads and times it. Owned by MeasureCeilings.
class Stopwatch {
 public:
  Stopwatch(int32_t num_threads, std::vector<int> cpus)
      : num_threads_(num_threads), cpus_(std::move(cpus)) {}

  int32_t num_threads() const { return num_threads_; }

  /// The shortest time in seconds that all threads took together for loop(thread), of several
  /// passes. `prepare(thread)` runs once before, on the same thread.
  double Best(const std::function<void(int32_t)>& prepare,
              const std::function<void(int32_t)>& loop) const {
    std::barrier together(num_threads_);
    double best = 0;
    const auto run = [&](int32_t thread) {
      if (!cpus_.empty()) Pin(cpus_[thread]);
      prepare(thread);
      for (int pass = 0; pass < kNumPasses; ++pass) {
        together.arrive_and_wait();
        const Clock::time_point begin = Clock::now();
        loop(thread);
        together.arrive_and_wait();
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        if (thread == 0) best = pass == 0 ? seconds : std::min(best, seconds);
      }
    };
    std::vector<std::thread> threads;
    for (int32_t i = 0; i < num_threads_; ++i) threads.emplace_back(run, i);
    for (std::thread& thread : threads) thread.join();
    return best;
  }

 private:
  static void Pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
  }

  const int32_t num_threads_;
  const std::vector<int> cpus_;
};

#if defined(MOED_X86_CEILINGS)
/// The widest of each loop that this machine has.
CeilingLoops ChooseLoops() {
  CeilingLoops loops = kCeilingLoopsPortable;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) loops = kCeilingLoopsAvx2;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return loops;
  }
  loops = kCeilingLoopsAvx512;
  if (__builtin_cpu_supports("avx512bf16")) loops.bf16 = kCeilingLoopsAvx512Bf16.bf16;
  if (__builtin_cpu_supports("avx512vnni")) loops.int8 = kCeilingLoopsAvx512Vnni.int8;
  return loops;
}
#else
CeilingLoops ChooseLoops() { return kCeilingLoopsPortable; }
#endif

/// Parts of one mapping, one for each thread.
struct Parts {
  char* data = nullptr;
  int64_t bytes_each = 0;

  char* Of(int32_t thread) const { return data + thread * bytes_each; }
  void Fill(int32_t thread) const { std::memset(Of(thread), 1, bytes_each); }
};

void MeasureReads(const Stopwatch& stopwatch, const CeilingLoops& loops,
                  const std::pair<Parts, Pages>& memory, MachineCeilings& ceilings) {
  const Parts& parts = memory.first;
  std::atomic<int64_t> sink{0};
  for (int method = 0; method < kNumReadMethods; ++method) {
    const double seconds = stopwatch.Best(
        [&](int32_t thread) {
          if (method == 0) parts.Fill(thread);
        },
        [&](int32_t thread) { sink += loops.read[method](parts.Of(thread), parts.bytes_each); });
    const double bytes = static_cast<double>(parts.bytes_each) * stopwatch.num_threads();
    if (bytes / seconds <= ceilings.read_bytes_per_s) continue;
    ceilings.read_bytes_per_s = bytes / seconds;
    ceilings.read_method = absl::StrCat(
        kReadMethods[method], memory.second == Pages::kHuge ? ", huge pages" : ", small pages");
  }
}

/// The first half of each part to the second.
double MeasureCopy(const Stopwatch& stopwatch, const Parts& parts) {
  const int64_t half = parts.bytes_each / 2;
  const double seconds = stopwatch.Best([](int32_t) {},
                                        [&](int32_t thread) {
                                          char* part = parts.Of(thread);
                                          std::memcpy(part + half, part, half);
                                        });
  return static_cast<double>(half) * stopwatch.num_threads() / seconds;
}

double MeasureRate(const Stopwatch& stopwatch, int64_t (*loop)(int64_t rounds)) {
  if (loop == nullptr) return 0;
  std::atomic<int64_t> num_operations{0};
  const double seconds =
      stopwatch.Best([](int32_t) {}, [&](int32_t) { num_operations += loop(kRounds); });
  return static_cast<double>(num_operations) / kNumPasses / seconds;
}

}  // namespace

absl::StatusOr<MachineCeilings> MeasureCeilings(int32_t num_threads, const std::vector<int>& cpus) {
  const CeilingLoops loops = ChooseLoops();
  const Stopwatch stopwatch(cpus.empty() ? num_threads : static_cast<int32_t>(cpus.size()), cpus);
  const int64_t total =
      std::max(kMinTotalBytes, kMinBytesPerThread * int64_t{stopwatch.num_threads()});
  const int64_t bytes_each = total / stopwatch.num_threads() / kHugePage * kHugePage;

  MachineCeilings ceilings{.num_threads = stopwatch.num_threads()};
  for (const Pages pages : {Pages::kSmall, Pages::kHuge}) {
    MOED_ASSIGN_OR_RETURN(const FreshMemory memory, FreshMemory::Map(total, pages));
    const Parts parts{.data = memory.data(), .bytes_each = bytes_each};
    MeasureReads(stopwatch, loops, {parts, pages}, ceilings);
    ceilings.copy_bytes_per_s = std::max(ceilings.copy_bytes_per_s, MeasureCopy(stopwatch, parts));
  }
  ceilings.f32_ops_per_s = MeasureRate(stopwatch, loops.f32);
  ceilings.bf16_ops_per_s = MeasureRate(stopwatch, loops.bf16);
  ceilings.int8_ops_per_s = MeasureRate(stopwatch, loops.int8);
  return ceilings;
}

}  // namespace moed
