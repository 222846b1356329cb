// moed: the daemon. Flags and the config file come from one table, config/daemon_config.cc.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "config/base/status_macros.h"
#include "config/daemon_config.h"
#include "config/logging.h"
#include "server/daemon.h"
#include "server/launch_plan.h"
#include "server/plan_report.h"
#include "server/signal_thread.h"

namespace moed {
namespace {

constexpr int kExitFailure = 1;
constexpr int kExitUsage = 2;

// What stands on the command line; `values` are texts, [number of fields].
struct CommandLine {
  std::string config_file;
  std::vector<std::string> values;
  std::vector<CLI::Option*> options;
  bool check = false;
  bool json = false;
};

std::string FlagNames(const ConfigField& field) {
  std::string name = "--" + std::string(field.key);
  std::replace(name.begin(), name.end(), '_', '-');
  if (!std::holds_alternative<bool DaemonConfig::*>(field.member)) return name;
  return name + ",!--no-" + name.substr(2);
}

std::string HelpText(const ConfigField& field) {
  std::string help(field.help);
  if (!field.choices.empty()) help += " (" + std::string(field.choices) + ")";
  return help;
}

void AddFlags(CLI::App& app, CommandLine& line) {
  app.add_option("--config", line.config_file,
                 "JSON file of the settings below; flags override it");
  app.add_flag("--check", line.check, "print the plan, or why it cannot work, and exit");
  app.add_flag("--json", line.json, "with --check: print one JSON object");
  line.values.resize(DaemonConfigFields().size());
  for (size_t i = 0; i < line.values.size(); ++i) {
    const ConfigField& field = DaemonConfigFields()[i];
    const bool is_bool = std::holds_alternative<bool DaemonConfig::*>(field.member);
    line.options.push_back(is_bool
                               ? app.add_flag(FlagNames(field), line.values[i], HelpText(field))
                               : app.add_option(FlagNames(field), line.values[i], HelpText(field)));
  }
}

absl::StatusOr<DaemonConfig> MakeConfig(const CommandLine& line) {
  DaemonConfig config;
  if (!line.config_file.empty()) MOED_RETURN_IF_ERROR(ApplyConfigFile(line.config_file, config));
  for (size_t i = 0; i < line.options.size(); ++i) {
    if (line.options[i]->count() == 0) continue;
    MOED_RETURN_IF_ERROR(SetConfigField(DaemonConfigFields()[i], line.values[i], config));
  }
  MOED_RETURN_IF_ERROR(ValidateDaemonConfig(config));
  return config;
}

int Fail(const absl::Status& status, int exit_code) {
  std::cerr << "moed: " << status.message() << "\n";
  return exit_code;
}

int Check(const DaemonConfig& config, const CommandLine& line) {
  const absl::StatusOr<LaunchPlan> plan = MakeLaunchPlan(config);
  if (!plan.ok()) return Fail(plan.status(), kExitFailure);
  std::cout << (line.json ? PlanJson(*plan) : DescribePlan(*plan));
  return 0;
}

int Serve(const DaemonConfig& config) {
  if (absl::Status status = InitLogging(config.log_level, "moed"); !status.ok()) {
    return Fail(status, kExitUsage);
  }
  absl::StatusOr<std::unique_ptr<Daemon>> daemon = Daemon::Create(config);
  if (!daemon.ok()) return Fail(daemon.status(), kExitFailure);
  const absl::Status status = (*daemon)->Run();
  return status.ok() ? 0 : Fail(status, kExitFailure);
}

int Main(int argc, char** argv) {
  SignalThread::BlockSignals();
  std::signal(SIGPIPE, SIG_IGN);  // a reader of the log that goes away ends nothing
  CLI::App app("moed serves Mixture-of-Experts language models over gRPC.", "moed");
  CommandLine line;
  AddFlags(app, line);
  app.set_version_flag("--version", MOED_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kExitUsage;
  }
  const absl::StatusOr<DaemonConfig> config = MakeConfig(line);
  if (!config.ok()) return Fail(config.status(), kExitUsage);
  return line.check ? Check(*config, line) : Serve(*config);
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) { return moed::Main(argc, argv); }
