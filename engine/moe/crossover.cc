#include "engine/moe/crossover.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "config/base/status_macros.h"
#include "config/logging.h"

namespace moed {
namespace {

constexpr CollectiveTag kTag = {.phase = "measuring"};
constexpr int kRepetitions = 3;  // after one that is not counted; the fastest counts

/// Microseconds at one number of tokens.
struct Timing {
  double all_gather_us = 0;
  double all_to_all_us = 0;
};

/// Makes the calls of one layer with contents that do not matter. Lives during one measurement.
class ExchangeMeter {
 public:
  explicit ExchangeMeter(const MoeContext& context)
      : context_(context),
        communicator_(context.communicator),
        row_bytes_(context.config.hidden_size *
                   static_cast<int64_t>(SizeBytes(context.backend.activation_dtype()))),
        ids_bytes_(context.config.top_k * static_cast<int64_t>(sizeof(int32_t))) {}

  absl::StatusOr<Timing> Measure(int32_t tokens) {
    Timing timing;
    MOED_ASSIGN_OR_RETURN(timing.all_gather_us, Fastest([&] { return GatherAll(tokens); }));
    MOED_ASSIGN_OR_RETURN(timing.all_to_all_us, Fastest([&] { return SendEach(tokens); }));
    return timing;
  }

 private:
  absl::StatusOr<double> Fastest(absl::FunctionRef<absl::Status()> exchange) {
    double fastest = 0;
    for (int i = 0; i <= kRepetitions; ++i) {
      MOED_RETURN_IF_ERROR(communicator_.Barrier(kTag));
      const auto start = std::chrono::steady_clock::now();
      MOED_RETURN_IF_ERROR(exchange());
      MOED_RETURN_IF_ERROR(communicator_.Finish(kTag));
      const std::chrono::duration<double, std::micro> spent =
          std::chrono::steady_clock::now() - start;
      if (i == 1 || (i > 1 && spent.count() < fastest)) fastest = spent.count();
    }
    return fastest;
  }

  /// As GatherAllRows and CombineReturnedBlocks.
  absl::Status GatherAll(int32_t tokens) {
    const MoeWorkspace& w = context_.workspace;
    const int64_t block = tokens * row_bytes_;
    const GatherPart parts[] = {
        {.send = w.topk_ids.data(), .recv = w.all_topk_ids.data(), .bytes = tokens * ids_bytes_},
        {.send = w.input_rows.as<std::byte>() + communicator_.rank() * block,
         .recv = w.input_rows.data(),
         .bytes = block}};
    MOED_RETURN_IF_ERROR(communicator_.AllGather(parts, kTag));
    const int64_t returned = block * context_.config.top_k;
    const std::vector<int64_t> bytes(communicator_.num_ranks(), returned);
    auto* rows = w.output_rows.as<std::byte>();
    return communicator_.AllToAllV(rows, bytes, rows + communicator_.num_ranks() * returned, bytes,
                                   kTag);
  }

  /// As GatherTopkIds, DispatchRows and CombineRows, at the mean number of rows.
  absl::Status SendEach(int32_t tokens) {
    MoeWorkspace& w = context_.workspace;
    const int32_t num_ranks = communicator_.num_ranks();
    std::vector<int64_t> bytes(num_ranks, tokens * ids_bytes_);
    MOED_RETURN_IF_ERROR(
        communicator_.AllGatherV(w.topk_ids.data(), bytes, w.all_topk_ids.data(), kTag));
    MOED_RETURN_IF_ERROR(communicator_.Finish(kTag));
    context_.backend.CopyToHost(w.host_topk_ids.data(), w.all_topk_ids.data(),
                                num_ranks * tokens * ids_bytes_);
    const double share =
        ShareOfTokensSent(context_.config.num_experts, context_.config.top_k, num_ranks);
    SetPeerRows(static_cast<int64_t>(std::ceil(tokens * share)), bytes);
    MOED_RETURN_IF_ERROR(
        communicator_.AllToAllV(w.send_rows.data(), bytes, w.input_rows.data(), bytes, kTag));
    SetPeerRows(std::max<int64_t>(1, tokens * context_.config.top_k / num_ranks), bytes);
    auto* rows = w.output_rows.as<std::byte>();
    return communicator_.AllToAllV(
        rows, bytes, rows + num_ranks * tokens * context_.config.top_k * row_bytes_, bytes, kTag);
  }

  void SetPeerRows(int64_t rows, std::vector<int64_t>& bytes) const {
    std::fill(bytes.begin(), bytes.end(), rows * row_bytes_);
    bytes[communicator_.rank()] = 0;
  }

  const MoeContext& context_;
  Communicator& communicator_;
  const int64_t row_bytes_;
  const int64_t ids_bytes_;
};

/// Rank 0's timings, on every rank.
absl::Status TakeTimingsOfRank0(const MoeContext& context, std::vector<Timing>& timings) {
  const auto bytes = static_cast<int64_t>(timings.size() * sizeof(Timing));
  MOED_ASSIGN_OR_RETURN(const kernels::Buffer all,
                        context.backend.Allocate(bytes * (1 + context.communicator.num_ranks())));
  auto* received = all.as<std::byte>() + bytes;
  context.backend.CopyToDevice(all.data(), timings.data(), bytes);
  const GatherPart part = {.send = all.data(), .recv = received, .bytes = bytes};
  MOED_RETURN_IF_ERROR(context.communicator.AllGather(std::span(&part, 1), kTag));
  MOED_RETURN_IF_ERROR(context.communicator.Finish(kTag));
  context.backend.CopyToHost(timings.data(), received, bytes);
  return context.backend.Synchronize();
}

void LogCrossover(int32_t crossover, const std::vector<Timing>& timings) {
  const auto list = [&timings](double Timing::*member) {
    return absl::StrJoin(timings, ",", [member](std::string* out, const Timing& timing) {
      absl::StrAppend(out, static_cast<int64_t>(std::lround(timing.*member)));
    });
  };
  SPDLOG_INFO(
      "event=exchange_crossover all_gather_up_to_tokens={} tokens=1,2,4,... all_gather_us={} "
      "all_to_all_us={}",
      crossover, list(&Timing::all_gather_us), list(&Timing::all_to_all_us));
}

}  // namespace

absl::StatusOr<int32_t> MeasureCrossover(const MoeContext& context, int32_t max_tokens) {
  ExchangeMeter meter(context);
  std::vector<Timing> timings;
  for (int32_t tokens = 1; tokens <= max_tokens; tokens *= 2) {
    MOED_ASSIGN_OR_RETURN(const Timing timing, meter.Measure(tokens));
    timings.push_back(timing);
  }
  MOED_RETURN_IF_ERROR(TakeTimingsOfRank0(context, timings));
  int32_t crossover = 0, tokens = 1;
  for (const Timing& timing : timings) {
    if (timing.all_gather_us > timing.all_to_all_us) break;
    crossover = tokens;
    tokens *= 2;
  }
  if (context.communicator.rank() == 0) LogCrossover(crossover, timings);
  return crossover;
}

double ShareOfTokensSent(int64_t num_experts, int64_t top_k, int32_t num_ranks) {
  const double elsewhere =
      static_cast<double>(num_experts) - static_cast<double>(num_experts) / num_ranks;
  double none = 1;  // that none of the choices so far is there
  for (int64_t k = 0; k < top_k; ++k) {
    none *=
        std::max(0.0, (elsewhere - static_cast<double>(k)) / static_cast<double>(num_experts - k));
  }
  return 1 - none;
}

}  // namespace moed
