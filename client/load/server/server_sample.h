#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moed::load {

/// What the server said about itself at one time. Counters count since the server's start.
struct ServerSample {
  double seconds = 0;  // since the start of the run
  bool has_status = false;
  int32_t num_running = 0;
  int32_t num_waiting = 0;
  int64_t num_generated_tokens = 0;
  int64_t num_steps = 0;
  int64_t num_preemptions = 0;
  int64_t prefix_cache_queries = 0;
  int64_t prefix_cache_hits = 0;
  double kv_used_ratio = 0;

  bool has_experts = false;
  std::vector<int64_t> rows_per_rank;
  double num_new_rows = 0;         // since the sample before, over all layers
  double balancedness = 0;         // of these over the ranks, mean of the layers
  double expert_balancedness = 0;  // of these over the experts, mean of the layers
  int64_t dispatch_bytes = 0;
  int64_t combine_bytes = 0;

  bool has_metrics = false;
  double step_seconds = 0;      // all steps together
  double exchange_seconds = 0;  // dispatch and combine, all ranks together
  double wait_seconds = 0;      // the part of it spent waiting for other ranks
};

/// Rows by layer and expert, and where the experts are.
struct ExpertCounts {
  int num_experts = 0;
  std::vector<int32_t> layers;              // indices in the model
  std::vector<std::vector<int64_t>> rows;   // [layer][expert]
  std::vector<std::vector<double>> shares;  // [layer][expert * num_ranks + rank]: part of it there
  int num_ranks = 0;
};

/// `end` without what was counted before `begin`; `end` itself when the two do not fit together.
ExpertCounts Since(const ExpertCounts& begin, const ExpertCounts& end);

/// Rows of each rank in one layer.
std::vector<double> RowsPerRank(const ExpertCounts& counts, size_t layer);

/// Mean / max; 0 without rows.
double Balancedness(const std::vector<double>& rows);

struct LayerBalancedness {
  double num_rows = 0;
  double of_ranks = 0;  // mean of the layers
  double of_experts = 0;
};

LayerBalancedness MeanOverLayers(const ExpertCounts& counts);

/// What was seen of the server during a run.
struct ServerRecording {
  std::vector<ServerSample> samples;  // about one a second, with one before and one after
  ExpertCounts experts_before;
  ExpertCounts experts_after;
  std::string problem;  // why there is less than there could be; "" when all is there
};

}  // namespace moed::load
