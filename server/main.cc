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
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
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

// Headings of --help: each field belongs to the last group whose first field it is or follows.
struct FieldGroup {
  absl::string_view first_key;
  const char* heading;
};
constexpr FieldGroup kFieldGroups[] = {{"model", "Model"},
                                       {"ranks", "Ranks"},
                                       {"kv_dtype", "KV memory"},
                                       {"max_tokens_per_step", "Batching and admission"},
                                       {"listen", "Addresses and safety"},
                                       {"ready_file", "Life of the process"}};

constexpr char kFooter[] =
    R"(Every setting is a key of the config file, with '_' for '-'. Settings
that are true or false have --no-NAME as well.

Signals: SIGTERM and SIGINT refuse new requests, finish what runs within --drain-timeout-s, and end.
A second one ends at once.
Environment: NOTIFY_SOCKET (a service manager that is told of READY, STOPPING and STATUS, as
sd_notify does), XDG_RUNTIME_DIR (where the sockets of the engines lie; else /tmp).
Exit codes: 0 ended by a signal, or the plan of --check works; 1 failure; 2 wrong usage.

Examples:
  moed --ranks 2                                     the demo model, on 127.0.0.1:50051
  moed --model /models/Qwen3-30B-A3B --ranks 4 --dtype int8 --check
  moed --config /etc/moed/moed.json --log-level debug
  moed --listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key --token-file tokens)";

// A default as --help shows it; one overload for each type of field.
struct DefaultText {
  std::string operator()(std::string DaemonConfig::*member) const { return DaemonConfig().*member; }
  std::string operator()(bool DaemonConfig::*member) const {
    return DaemonConfig().*member ? "true" : "false";
  }
  template <typename Number>
  std::string operator()(Number DaemonConfig::*member) const {
    return absl::StrCat(DaemonConfig().*member);
  }
};

const char* TypeName(const ConfigField& field) {
  return std::holds_alternative<std::string DaemonConfig::*>(field.member) ? "TEXT" : "NUMBER";
}

CLI::Option* AddFlag(CLI::App& app, const ConfigField& field, std::string& value) {
  if (std::holds_alternative<bool DaemonConfig::*>(field.member)) {
    const std::string is_default = std::visit(DefaultText{}, field.member);
    return app.add_flag(FlagNames(field), value, HelpText(field) + " [" + is_default + "]");
  }
  return app.add_option(FlagNames(field), value, HelpText(field))
      ->type_name(TypeName(field))
      ->default_str(std::visit(DefaultText{}, field.member));
}

void AddFlags(CLI::App& app, CommandLine& line) {
  app.add_option("--config", line.config_file, "JSON file of the settings below; flags override it")
      ->type_name("FILE");
  app.add_flag("--check", line.check, "print the plan, or why it cannot work, and exit");
  app.add_flag("--json", line.json, "with --check: print one JSON object");
  line.values.resize(DaemonConfigFields().size());
  const char* heading = "Options";
  for (size_t i = 0; i < line.values.size(); ++i) {
    const ConfigField& field = DaemonConfigFields()[i];
    for (const FieldGroup& group : kFieldGroups) {
      if (group.first_key == field.key) heading = group.heading;
    }
    line.options.push_back(AddFlag(app, field, line.values[i])->group(heading));
  }
  app.footer(kFooter);
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
