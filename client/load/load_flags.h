#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "client/command_line.h"

namespace moed::load {

/// What the user asked moed-load for, as it was written.
struct LoadFlags {
  ConnectionFlags connection;  // its timeout is the deadline of each request
  std::string admin_server;    // where the admin calls are, when not at the server's address
  int channels = 0;            // TCP connections of each worker; 0 = by the load
  int threads = 1;

  std::string concurrency;  // a number or a schedule; closed loop
  std::string rate;         // a number, "inf" or a schedule; open loop
  std::string arrivals = "poisson";
  double burstiness = 1;
  double ramp_up_s = 0;
  int64_t max_concurrency = 0;
  std::string trace;
  std::string trace_format = "auto";
  double time_scale = 1;
  std::string turns = "1";
  std::string think_time = "0";
  int64_t num_prompts = 0;
  double duration_s = 0;
  double warmup_s = 0;
  int64_t num_warmups = 0;
  double drain_timeout_s = 60;

  std::string dataset = "random";
  std::string dataset_path;
  std::string input_len = "128";
  std::string output_len = "128";
  int64_t prefix_families = 0;
  int64_t prefix_len = 0;
  double prefix_skew = 0;
  double expert_balancedness = 0;  // 0 = no skew
  double expert_drift_s = 0;
  int expert_topics = 40;
  std::string model;
  float temperature = 0;
  uint64_t seed = 0;
  int32_t priority = 0;
  bool stop_at_eos = false;
  bool skip_text = false;
  bool bypass_prefix_cache = false;

  int64_t cancel_after = 0;
  double cancel_fraction = 1;
  double slow_reader_ms = 0;
  double slow_reader_fraction = 1;

  std::vector<std::string> goodput;  // "ttft:200" and the like, milliseconds
  std::string metrics;               // HOST:PORT
  double max_lag_ms = 1;
  double max_cpu = 0.8;
  bool no_server_stats = false;

  bool search = false;
  std::vector<double> sweep;
  double attainment = 0.99;
  double search_tolerance = 0.05;
  int search_trials = 16;
  int repeat = 1;
  int32_t verify = 0;  // this many prompts; 0 = no

  std::string label;
  std::string json;
  std::string csv;
  std::string html;
  bool save_detailed = false;
  bool quiet = false;
};

struct CompareFlags {
  std::string before;
  std::string after;
  double alpha = 0.05;
  double min_change = 0.02;
  bool json = false;
};

using LoadCommandLine = std::variant<LoadFlags, CompareFlags>;

/// The command line, or the exit code when there is nothing to do: 0 after help, 2 after wrong
/// usage; what the user should read has been printed.
std::variant<LoadCommandLine, int> ParseLoadCommandLine(int argc, const char* const* argv);

}  // namespace moed::load
