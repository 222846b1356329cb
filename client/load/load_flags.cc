#include "client/load/load_flags.h"

#include <CLI/CLI.hpp>
#include <iostream>

#include "client/connection_flags.h"

namespace moed::load {
namespace {

constexpr char kExamples[] = R"(
Examples:
  moed-load --concurrency 32 --duration 30
  moed-load --rate 10 --duration 60 --warmup 10 --json a.json --html a.html
  moed-load --rate 2..40:60 --goodput ttft:200 tpot:50
  moed-load --search --goodput ttft:300 tpot:60 --duration 20
  moed-load --trace conversation.jsonl --time-scale 0.5 --metrics 127.0.0.1:9090
  moed-load --concurrency 64 --expert-balancedness 0.6 --expert-drift 30
  moed-load --concurrency 16 --turns 4 --think-time exp:2 --verify 8
  moed-load compare a.json b.json

Lengths, turns and think times: N, A..B, normal:MEAN:STD, lognormal:MEAN:STD, exp:MEAN.
Schedules of --rate and --concurrency: LEVEL:SECONDS,FROM..TO:SECONDS,FROM..TO:SECONDS:exp,LEVEL.
Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 compare found something worse, 4 the client could not keep
up, so that the run is not valid, 130 interrupted.)";

/// Adds options of one group to an app.
class Group {
 public:
  Group(CLI::App& app, const char* name) : app_(app), name_(name) {}

  template <typename Value>
  CLI::Option* Add(const char* flag, Value& value, const char* help) {
    return app_.add_option(flag, value, help)->group(name_)->capture_default_str();
  }
  void AddFlag(const char* flag, bool& value, const char* help) {
    app_.add_flag(flag, value, help)->group(name_);
  }

 private:
  CLI::App& app_;
  const char* const name_;
};

void AddLoad(CLI::App& app, LoadFlags& flags) {
  Group load(app, "Load");
  load.Add("--concurrency,--users", flags.concurrency,
           "Closed loop: requests in flight, or a schedule");
  load.Add("--rate", flags.rate, "Open loop: requests per second, inf, or a schedule")
      ->excludes("--concurrency");
  load.Add("--arrivals", flags.arrivals, "constant, poisson or gamma")
      ->check(CLI::IsMember({"constant", "poisson", "gamma"}));
  load.Add("--burstiness", flags.burstiness, "Of gamma: below 1 in bursts, above 1 more even")
      ->check(CLI::Range(0.01, 1000.0));
  load.Add("--ramp-up", flags.ramp_up_s, "Seconds over which a closed loop starts")
      ->check(CLI::Range(0.0, 1e6));
  load.Add("--max-concurrency", flags.max_concurrency, "Of an open loop: later requests wait")
      ->check(CLI::Range(0, 1000000));
  load.Add("--trace", flags.trace, "Replay a file: Mooncake JSONL, Azure or BurstGPT CSV")
      ->excludes("--rate")
      ->excludes("--concurrency");
  load.Add("--trace-format", flags.trace_format, "auto, mooncake, azure or burstgpt")
      ->check(CLI::IsMember({"auto", "mooncake", "azure", "burstgpt"}));
  load.Add("--time-scale", flags.time_scale, "Stretches a trace's time; 0.5 is twice as fast")
      ->check(CLI::Range(1e-6, 1e6));
  load.Add("--turns", flags.turns, "Turns of a conversation, each with all that was said before");
  load.Add("--think-time", flags.think_time, "Seconds between an answer and the next request");
  load.Add("--num-prompts,-n", flags.num_prompts, "Requests to send; 0 = as long as it lasts")
      ->check(CLI::Range(int64_t{0}, int64_t{100000000}));
  load.Add("--duration", flags.duration_s, "Seconds of sending; 30 when nothing else ends the run")
      ->check(CLI::Range(0.0, 1e6));
  load.Add("--warmup", flags.warmup_s, "Seconds whose requests do not count")
      ->check(CLI::Range(0.0, 1e6));
  load.Add("--num-warmups", flags.num_warmups, "Requests before the run")
      ->check(CLI::Range(0, 1000000));
  load.Add("--drain-timeout", flags.drain_timeout_s, "Seconds to wait for the last answers")
      ->check(CLI::Range(0.0, 1e6));
  load.Add("--channels", flags.channels, "TCP connections of each thread; 0 = by the load")
      ->check(CLI::Range(0, 1024));
  load.Add("--threads", flags.threads, "Threads that read answers")->check(CLI::Range(1, 256));
}

void AddRequests(CLI::App& app, LoadFlags& flags) {
  Group requests(app, "Requests");
  requests.Add("--dataset", flags.dataset, "random, sonnet (bundled text), sharegpt or jsonl")
      ->check(CLI::IsMember({"random", "sonnet", "sharegpt", "jsonl"}));
  requests.Add("--dataset-path", flags.dataset_path, "The file of sharegpt or jsonl");
  requests.Add("--input-len", flags.input_len, "Prompt tokens");
  requests.Add("--output-len", flags.output_len, "Tokens to generate");
  requests.Add("--prefix-families", flags.prefix_families, "Common prefixes among the prompts")
      ->check(CLI::Range(0, 1000000));
  requests.Add("--prefix-len", flags.prefix_len, "Tokens of a common prefix")
      ->check(CLI::Range(0, 10000000));
  requests.Add("--prefix-skew", flags.prefix_skew, "Zipf exponent of the families; 0 = all alike")
      ->check(CLI::Range(0.0, 10.0));
  requests
      .Add("--expert-balancedness", flags.expert_balancedness,
           "Mix prompts until expert load is so uneven: mean / max over ranks; 0 = leave it")
      ->check(CLI::Range(0.0, 1.0));
  requests.Add("--expert-drift", flags.expert_drift_s, "Seconds until the load moves to others")
      ->check(CLI::Range(0.0, 1e6));
  requests.Add("--expert-topics", flags.expert_topics, "Kinds of prompts to measure and mix")
      ->check(CLI::Range(2, 4096));
  requests.Add("--model", flags.model, "Refuse to be served by another model");
  requests.Add("--temperature", flags.temperature, "0 is greedy")->check(CLI::Range(0.0, 100.0));
  requests.Add("--seed", flags.seed, "Of prompts and arrivals");
  requests.Add("--priority", flags.priority, "Of all requests")->check(CLI::Range(-100, 100));
  requests.AddFlag("--stop-at-eos", flags.stop_at_eos, "Let end-of-text end an answer early");
  requests.AddFlag("--skip-text", flags.skip_text, "Let the server send no text");
  requests.AddFlag("--bypass-prefix-cache", flags.bypass_prefix_cache, "Compute every prompt");
}

void AddFaults(CLI::App& app, LoadFlags& flags) {
  Group faults(app, "Clients that misbehave (--timeout sets deadlines)");
  faults.Add("--cancel-after", flags.cancel_after, "Cancel after this many tokens; 0 = never")
      ->check(CLI::Range(int64_t{0}, int64_t{100000000}));
  faults.Add("--cancel-fraction", flags.cancel_fraction, "Of the requests")
      ->check(CLI::Range(0.0, 1.0));
  faults.Add("--slow-reader", flags.slow_reader_ms, "Milliseconds before each message is read")
      ->check(CLI::Range(0.0, 1e6));
  faults.Add("--slow-reader-fraction", flags.slow_reader_fraction, "Of the requests")
      ->check(CLI::Range(0.0, 1.0));
}

void AddMeasures(CLI::App& app, LoadFlags& flags) {
  Group measures(app, "Measuring");
  measures.Add("--goodput,--slo", flags.goodput, "Limits in ms: ttft:200 tpot:50 e2el:5000")
      ->expected(1, 3);
  measures.Add("--metrics", flags.metrics, "HOST:PORT of the server's metrics, to read beside it");
  measures.Add("--admin-server", flags.admin_server,
               "Where the admin calls are, if not at --server");
  measures.AddFlag("--no-server-stats", flags.no_server_stats,
                   "Do not ask the server's admin calls");
  measures.Add("--max-lag-ms", flags.max_lag_ms, "A larger p99 of schedule lag spoils a run")
      ->check(CLI::PositiveNumber);
  measures.Add("--max-cpu", flags.max_cpu, "A larger CPU share of a thread spoils a run")
      ->check(CLI::Range(0.01, 1.0));
  measures.AddFlag("--search", flags.search, "Find the highest load that meets --goodput");
  measures.Add("--sweep", flags.sweep, "One run for each of these loads: 1,2,4,8")
      ->delimiter(',')
      ->check(CLI::Range(1e-6, 1e6))
      ->excludes("--search");
  measures.Add("--attainment", flags.attainment, "Part of the requests that must be good")
      ->check(CLI::Range(0.0, 1.0));
  measures.Add("--search-tolerance", flags.search_tolerance, "Ratio within which a search ends")
      ->check(CLI::Range(0.001, 10.0));
  measures.Add("--search-trials", flags.search_trials, "Most runs of a search")
      ->check(CLI::Range(1, 1000));
  measures.Add("--repeat", flags.repeat, "Runs, for confidence intervals")
      ->check(CLI::Range(1, 1000));
  measures
      .Add("--verify", flags.verify, "This many greedy prompts must always give the same tokens")
      ->check(CLI::Range(0, 100000));
}

void AddOutputs(CLI::App& app, LoadFlags& flags) {
  Group outputs(app, "Output");
  outputs.Add("--json", flags.json, "File for the result, with the keys of vllm bench serve");
  outputs.Add("--csv", flags.csv, "File for the timeline");
  outputs.Add("--html", flags.html, "File for a page with plots");
  outputs.Add("--label", flags.label, "A name for the result");
  outputs.AddFlag("--save-detailed", flags.save_detailed, "Every request in the JSON file");
  outputs.AddFlag("--quiet,-q", flags.quiet, "No progress line");
}

void AddCompare(CLI::App& app, CompareFlags& flags) {
  CLI::App* compare = app.add_subcommand("compare",
                                         "What changed between two results; exit code 3 "
                                         "when something is worse");
  compare->add_option("before", flags.before, "A file of --json")->required();
  compare->add_option("after", flags.after, "Another one")->required();
  compare->add_option("--alpha", flags.alpha, "Level of significance of all figures together")
      ->check(CLI::Range(1e-9, 0.5))
      ->capture_default_str();
  compare->add_option("--min-change", flags.min_change, "Smaller relative changes do not matter")
      ->check(CLI::Range(0.0, 10.0))
      ->capture_default_str();
  compare->add_flag("--json", flags.json, "Print one JSON object");
}

// What CLI11 cannot say; "" when nothing is wrong.
std::string Problem(const LoadFlags& flags) {
  const bool needs_path = flags.dataset == "sharegpt" || flags.dataset == "jsonl";
  if (needs_path && flags.dataset_path.empty())
    return "--dataset " + flags.dataset + " needs --dataset-path";
  if (flags.search && flags.goodput.empty()) return "--search needs --goodput";
  if ((flags.search || !flags.sweep.empty()) && !flags.trace.empty()) {
    return "--search and --sweep change a rate or a concurrency, which --trace does not have";
  }
  if ((flags.search || !flags.sweep.empty()) && flags.repeat > 1) {
    return "--repeat does not go with --search or --sweep";
  }
  if (flags.prefix_families > 0 && flags.prefix_len == 0)
    return "--prefix-families needs --prefix-len";
  if (flags.expert_drift_s > 0 && flags.expert_balancedness == 0) {
    return "--expert-drift needs --expert-balancedness";
  }
  if (flags.verify > 0 && flags.temperature > 0) return "--verify needs --temperature 0";
  if (flags.verify > 0 && flags.turns != "1") return "--verify does not go with --turns";
  return "";
}

}  // namespace

std::variant<LoadCommandLine, int> ParseLoadCommandLine(int argc, const char* const* argv) {
  LoadFlags flags;
  CompareFlags compare;
  CLI::App app("moed-load: load tests a moed server", "moed-load");
  app.set_version_flag("--version", MOED_VERSION);
  app.footer(kExamples);
  AddConnectionFlags(app, flags.connection);
  AddLoad(app, flags);
  AddRequests(app, flags);
  AddFaults(app, flags);
  AddMeasures(app, flags);
  AddOutputs(app, flags);
  AddCompare(app, compare);
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (app.got_subcommand("compare")) return LoadCommandLine(compare);
  const std::string problem = Problem(flags);
  if (!problem.empty()) {
    std::cerr << "moed-load: " << problem << "; run with --help\n";
    return 2;
  }
  return LoadCommandLine(flags);
}

}  // namespace moed::load
