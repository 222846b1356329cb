// moed-engine: the process of one rank. The daemon starts it, configures it and sends it steps.

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "config/base/status_macros.h"
#include "config/logging.h"
#include "config/model_config.h"
#include "engine/comm/nccl_communicator.h"
#include "engine/comm/shm_communicator.h"
#include "engine/rpc/engine_config.h"
#include "engine/rpc/engine_server.h"
#include "engine/runtime/local_engine.h"
#include "kernels/create_backend.h"

namespace moed {
namespace {

absl::StatusOr<std::unique_ptr<Communicator>> JoinNcclGroup(const EngineConfig& config,
                                                            const LoadHooks& hooks,
                                                            kernels::Backend& backend) {
  std::string name;
  if (config.rank == 0) {
    MOED_ASSIGN_OR_RETURN(name, MakeNcclUniqueId(config.nccl_library));
  }
  MOED_ASSIGN_OR_RETURN(name, hooks.share_group_name(name));
  return CreateNcclCommunicator(backend, {.library = config.nccl_library,
                                          .unique_id = name,
                                          .rank = config.rank,
                                          .num_ranks = config.placement.num_ranks,
                                          .timeout = config.exchange_timeout});
}

absl::StatusOr<std::unique_ptr<Communicator>> JoinShmGroup(const EngineConfig& config, int shm_fd) {
  if (shm_fd < 0) {
    return absl::FailedPreconditionError(
        "starting a rank of several: --shm-fd is missing, the ranks have nothing to exchange "
        "through");
  }
  return CreateShmCommunicator(shm_fd, {.rank = config.rank,
                                        .num_ranks = config.placement.num_ranks,
                                        .max_bytes_per_rank = config.max_exchange_bytes_per_rank,
                                        .timeout = config.exchange_timeout});
}

/// Memory of the host is shared; memory of devices goes through NCCL.
absl::StatusOr<std::unique_ptr<Communicator>> CreateCommunicator(const EngineConfig& config,
                                                                 const LoadHooks& hooks, int shm_fd,
                                                                 kernels::Backend& backend) {
  if (config.placement.num_ranks == 1) return CreateSingleRankCommunicator();
  if (backend.op_stream() != nullptr) return JoinNcclGroup(config, hooks, backend);
  return JoinShmGroup(config, shm_fd);
}

WeightLoaderOptions ToLoaderOptions(const EngineConfig& config, const LoadHooks& hooks) {
  return {.model_dir = config.model_dir,
          .format = config.dummy_weights ? LoadFormat::kDummy : LoadFormat::kAuto,
          .dummy_seed = config.dummy_seed,
          .weight_format = config.weight_format,
          .rank = config.rank,
          .progress = hooks.progress,
          .cancelled = hooks.cancelled};
}

LocalEngineOptions ToEngineOptions(const EngineConfig& config) {
  return {.backend = {.device = config.device,
                      .activation_dtype = config.activation_dtype,
                      .num_threads = config.num_threads,
                      .cpus = config.cpus,
                      .instruction_set = config.instruction_set,
                      .numerics = config.numerics},
          .kv_dtype = config.kv_dtype,
          .block_size = config.block_size,
          .num_blocks = config.num_blocks,
          .max_tokens_per_step = config.max_tokens_per_step,
          .max_sequences_per_step = config.max_sequences_per_step,
          .max_model_len = config.max_model_len,
          .exchange = config.exchange,
          .num_valid_tokens = config.num_valid_tokens};
}

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineConfig& config,
                                                     const LoadHooks& hooks, int shm_fd) {
  MOED_ASSIGN_OR_RETURN(const ModelConfig model, config.model_config_json.empty()
                                                     ? LoadModelConfig(config.model_dir)
                                                     : ParseModelConfig(config.model_config_json));
  return LocalEngine::Create(model, config.placement, ToLoaderOptions(config, hooks),
                             ToEngineOptions(config), [&](kernels::Backend& backend) {
                               return CreateCommunicator(config, hooks, shm_fd, backend);
                             });
}

/// The daemon reads these lines, adds time and rank, and logs them at the level they start with.
absl::Status StartLogging(const std::string& level) {
  MOED_RETURN_IF_ERROR(InitLogging(level, "engine"));
  spdlog::set_pattern("level=%l %v");
  return absl::OkStatus();
}

/// For the daemon's memory plan.
int PrintFreeMemory(const std::string& device) {
  const absl::StatusOr<int64_t> bytes = kernels::FreeDeviceBytes(device);
  if (bytes.ok()) {
    std::cout << "free_bytes=" << *bytes << "\n";
    return 0;
  }
  std::cerr << bytes.status().message() << "\n";
  return 1;
}

int Run(const EngineServerOptions& options, int shm_fd) {
  const absl::Status status =
      RunEngineServer(options, [shm_fd](const EngineConfig& config, const LoadHooks& hooks) {
        return CreateEngine(config, hooks, shm_fd);
      });
  if (status.ok()) return 0;
  SPDLOG_ERROR("event=engine_failed error=\"{}\"", std::string(status.message()));
  return 1;
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) {
  CLI::App app("moed-engine: the process of one rank, started by moed", "moed-engine");
  moed::EngineServerOptions options;
  int shm_fd = -1;
  std::string log_level = "info";
  std::string free_memory_of;
  app.add_option("--listen", options.listen, "Control socket, unix:PATH");
  app.add_option("--free-memory", free_memory_of, "Print the free bytes of a device and exit");
  app.add_option("--shm-fd", shm_fd, "Inherited descriptor of the exchange segment");
  app.add_option("--parent-fd", options.parent_fd,
                 "Inherited read end of a pipe; exit when its writers are gone");
  app.add_option("--log-level", log_level, "trace, debug, info, warn, error or off");
  app.set_version_flag("--version", MOED_VERSION);
  app.footer(
      "People start moed, which starts its engines, tells each its model and rank over --listen,\n"
      "and ends them. Log lines go to standard error; moed adds time and rank to them.\n"
      "Exit codes: 0 told to end, or its daemon has gone; 1 failure; 2 wrong usage.\n\n"
      "Examples:\n  moed-engine --listen unix:/run/moed/rank-0.sock");
  try {
    app.parse(argc, argv);
    if (options.listen.empty() == free_memory_of.empty()) {
      throw CLI::RequiredError("One of --listen and --free-memory");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (!free_memory_of.empty()) return moed::PrintFreeMemory(free_memory_of);
  if (const absl::Status status = moed::StartLogging(log_level); !status.ok()) {
    std::cerr << "moed-engine: " << status.message() << "\n";
    return 2;
  }
  return moed::Run(options, shm_fd);
}
