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
constexpr int64_t kMinBytesPerThread = int64_t{32} << 20;

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
  explicit Stopwatch(const CeilingOptions& options) : options_(options) {}

  int32_t num_threads() const { return options_.num_threads; }

  /// The shortest time in seconds that all threads took together for loop(thread), of several
  /// passes. `prepare(thread)` runs once before, on the same thread.
  double Best(const std::function<void(int32_t)>& prepare,
              const std::function<void(int32_t)>& loop) const {
    std::barrier together(num_threads());
    double best = 0;
    const auto run = [&](int32_t thread) {
      if (!options_.cpus.empty()) Pin(options_.cpus[thread]);
      prepare(thread);
      for (int pass = 0; pass < options_.num_passes; ++pass) {
        together.arrive_and_wait();
        const Clock::time_point begin = Clock::now();
        loop(thread);
        together.arrive_and_wait();
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        if (thread == 0) best = pass == 0 ? seconds : std::min(best, seconds);
      }
    };
    std::vector<std::thread> threads;
    for (int32_t i = 0; i < num_threads(); ++i) threads.emplace_back(run, i);
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

  const CeilingOptions& options_;
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

int64_t TotalBytes(const CeilingOptions& options) {
  return std::max(options.num_bytes, kMinBytesPerThread * int64_t{options.num_threads});
}

Parts PartsOf(const FreshMemory& memory, const CeilingOptions& options) {
  return {.data = memory.data(),
          .bytes_each = TotalBytes(options) / options.num_threads / kHugePage * kHugePage};
}

double MeasureRead(const Stopwatch& stopwatch, int64_t (*read)(const char*, int64_t),
                   const Parts& parts) {
  std::atomic<int64_t> sink{0};
  const double seconds = stopwatch.Best(
      [](int32_t) {}, [&](int32_t thread) { sink += read(parts.Of(thread), parts.bytes_each); });
  return static_cast<double>(parts.bytes_each) * stopwatch.num_threads() / seconds;
}

void MeasureReads(const Stopwatch& stopwatch, const std::pair<Parts, Pages>& memory,
                  MachineCeilings& ceilings) {
  const Parts& parts = memory.first;
  const CeilingLoops loops = ChooseLoops();
  stopwatch.Best([&](int32_t thread) { parts.Fill(thread); }, [](int32_t) {});
  for (int method = 0; method < kNumReadMethods; ++method) {
    const double rate = MeasureRead(stopwatch, loops.read[method], parts);
    if (rate <= ceilings.read_bytes_per_s) continue;
    ceilings.read_bytes_per_s = rate;
    ceilings.read_method = absl::StrCat(
        kReadMethods[method], memory.second == Pages::kHuge ? ", huge pages" : ", small pages");
  }
}

/// Keeps memory whose pages are there already.
class HugePageProbe final : public ReadProbe {
 public:
  HugePageProbe(CeilingOptions options, FreshMemory memory)
      : options_(std::move(options)),
        memory_(std::move(memory)),
        loops_(ChooseLoops()),
        parts_(PartsOf(memory_, options_)) {
    options_.num_passes = 1;
    Stopwatch(options_).Best([this](int32_t thread) { parts_.Fill(thread); }, [](int32_t) {});
  }

  double Measure() override {
    const Stopwatch stopwatch(options_);
    double best = 0;
    for (const auto& read : loops_.read) {
      best = std::max(best, MeasureRead(stopwatch, read, parts_));
    }
    return best;
  }

 private:
  CeilingOptions options_;
  const FreshMemory memory_;
  const CeilingLoops loops_;
  const Parts parts_;
};

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

double MeasureRate(const Stopwatch& stopwatch, int64_t num_rounds, int64_t (*loop)(int64_t)) {
  if (loop == nullptr) return 0;
  std::atomic<int64_t> operations_each{0};
  const double seconds =
      stopwatch.Best([](int32_t) {}, [&](int32_t) { operations_each = loop(num_rounds); });
  return static_cast<double>(operations_each) * stopwatch.num_threads() / seconds;
}

}  // namespace

absl::StatusOr<MachineCeilings> MeasureCeilings(const CeilingOptions& options) {
  const CeilingLoops loops = ChooseLoops();
  const Stopwatch stopwatch(options);
  MachineCeilings ceilings{.num_threads = options.num_threads};
  for (const Pages pages : {Pages::kSmall, Pages::kHuge}) {
    MOED_ASSIGN_OR_RETURN(const FreshMemory memory, FreshMemory::Map(TotalBytes(options), pages));
    const Parts parts = PartsOf(memory, options);
    MeasureReads(stopwatch, {parts, pages}, ceilings);
    ceilings.copy_bytes_per_s = std::max(ceilings.copy_bytes_per_s, MeasureCopy(stopwatch, parts));
  }
  ceilings.f32_ops_per_s = MeasureRate(stopwatch, options.num_rounds, loops.f32);
  ceilings.bf16_ops_per_s = MeasureRate(stopwatch, options.num_rounds, loops.bf16);
  ceilings.int8_ops_per_s = MeasureRate(stopwatch, options.num_rounds, loops.int8);
  return ceilings;
}

absl::StatusOr<std::unique_ptr<ReadProbe>> ReadProbe::Create(const CeilingOptions& options) {
  MOED_ASSIGN_OR_RETURN(FreshMemory memory, FreshMemory::Map(TotalBytes(options), Pages::kHuge));
  return std::make_unique<HugePageProbe>(options, std::move(memory));
}

}  // namespace moed
