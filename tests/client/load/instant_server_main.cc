// instant-server: see instant_server.h. Serves until it gets SIGINT or SIGTERM, to measure
// moed-load:
//
//     taskset -c 1 instant-server 127.0.0.1:50061 &
//     taskset -c 0 moed-load --server 127.0.0.1:50061 --concurrency 1000 --output-len 200
//     --duration 10

#include <signal.h>

#include <iostream>
#include <string>

#include "tests/client/load/instant_server.h"

int main(int argc, char** argv) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  moed::load::InstantServerOptions options;
  options.address = argc > 1 ? argv[1] : "127.0.0.1:50061";
  const moed::load::InstantServer server(options);
  std::cout << "instant-server: serving on " << server.address() << std::endl;
  int signal = 0;
  sigwait(&signals, &signal);
  return 0;
}
