#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "client/load/report/run_summary.h"
#include "client/load/server/server_sample.h"

namespace moed::load {

/// What a result says about how it came to be.
struct RunLabels {
  std::string label;
  std::string server;
  std::string model;
  std::string date;  // YYYYMMDD-HHMMSS
  std::string request_rate = "inf";
  double burstiness = 1;
  int64_t max_concurrency = 0;  // 0 = null
  int64_t num_prompts = 0;
  int64_t max_model_len = 0;
  nlohmann::ordered_json load;  // the flags that matter
};

/// One point of a search or a sweep.
struct LoadPoint {
  double level = 0;  // requests per second, or requests in flight
  bool meets = false;
  bool is_valid = true;
  double attainment = 0;
  double request_throughput = 0;
  double output_throughput = 0;
  double ttft_p50_ms = 0;
  double ttft_p99_ms = 0;
  double tpot_p50_ms = 0;
  double tpot_p99_ms = 0;
  double e2el_p99_ms = 0;
};

LoadPoint ToPoint(double level, const RunSummary& summary);

/// The keys that readers of `vllm bench serve` expect, and all else under "moed".
nlohmann::ordered_json ToJson(const RunSummary& summary, const RunLabels& labels,
                              const ServiceLevel& slo);

/// The server's side: samples with what changed between them, and expert load of the run.
nlohmann::ordered_json ToJson(const ServerRecording& recording);

nlohmann::ordered_json ToJson(const std::vector<LoadPoint>& points);

/// The keys of --save-detailed: one entry for each request.
void AddDetails(const RunRecording& recording, nlohmann::ordered_json& json);

}  // namespace moed::load
