// A process with an engine group, for a test that kills it: prints "pid N" for each engine, and
// waits.

#include <unistd.h>

#include <iostream>

#include "server/supervisor/process_engine_group.h"

int main(int argc, char** argv) {
  if (argc < 2) return 2;
  moed::ProcessEngineGroupOptions options{.engine_binary = argv[1]};
  options.engine.placement = moed::ExpertPlacement::Linear(2, 4, 2);
  options.engine.max_exchange_bytes_per_rank = 4096;
  moed::ProcessEngineGroup group(options);
  if (const absl::Status status = group.Start(); !status.ok()) {
    std::cout << status.message() << std::endl;
    return 1;
  }
  for (const moed::RankProcess& rank : group.rank_processes()) {
    std::cout << "pid " << rank.pid << std::endl;
  }
  std::cout << "ready" << std::endl;
  while (true) ::pause();
}
