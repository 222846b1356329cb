// fake-engine: speaks the engine wire like moed-engine, has no model, and fails on command.

#include <fcntl.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "engine/rpc/engine_server.h"
#include "tests/fakes/fake_engine.h"

namespace moed {
namespace {

/// The N of ".../rank-N.sock"; -1 for another name.
int32_t RankOf(const std::string& address) {
  const size_t begin = address.rfind("rank-");
  int32_t rank = -1;
  if (begin == std::string::npos) return rank;
  const std::string number = address.substr(begin + 5, address.rfind(".sock") - begin - 5);
  return absl::SimpleAtoi(number, &rank) ? rank : -1;
}

int Run(const EngineServerOptions& options, const FakeFault& fault, int shm_fd) {
  FailAtStart(fault, RankOf(options.listen));
  const absl::Status status = RunEngineServer(
      options,
      [&](const EngineConfig& config,
          const LoadHooks& hooks) -> absl::StatusOr<std::unique_ptr<Engine>> {
        if (config.placement.num_ranks > 1 && ::fcntl(shm_fd, F_GETFD) < 0) {
          return absl::FailedPreconditionError("the exchange segment was not inherited");
        }
        return CreateFakeEngine(config, hooks, fault);
      });
  if (status.ok()) return 0;
  std::cerr << "level=error event=engine_failed error=\"" << status.message() << "\"" << std::endl;
  return 1;
}

}  // namespace
}  // namespace moed

int main(int argc, char** argv) {
  CLI::App app("fake-engine: a stand-in for moed-engine in tests");
  moed::EngineServerOptions options;
  moed::FakeFault fault;
  int shm_fd = -1;
  app.add_option("--listen", options.listen)->required();
  app.add_option("--shm-fd", shm_fd);
  app.add_option("--parent-fd", options.parent_fd);
  app.add_option("--fault", fault.kind);
  app.add_option("--fault-rank", fault.rank);
  app.add_option("--fault-step", fault.step_id);
  app.add_option("--fault-once", fault.once);
  CLI11_PARSE(app, argc, argv);
  return moed::Run(options, fault, shm_fd);
}
