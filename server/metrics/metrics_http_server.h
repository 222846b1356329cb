#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/metrics/server_stats.h"

namespace moed {

/// Answers by HTTP: /metrics; /healthz (200 while the process lives) and /readyz (200 only when
/// serving); the status page at / and its /experts.json. It reads only: anything but GET is
/// refused.
///
/// Owned by the daemon and destroyed before what its callbacks use. It has threads of its own.
class MetricsHttpServer {
 public:
  /// The callbacks are called from the server's threads.
  struct Params {
    std::string listen;  // "HOST:PORT" or "[IPV6]:PORT"; port 0 for any
    std::function<std::string()> metrics_text;
    std::function<std::string()> experts_json;
    std::function<ServingState()> state;
  };

  /// Listens at once. UNAVAILABLE when it cannot.
  static absl::StatusOr<std::unique_ptr<MetricsHttpServer>> Start(Params params);

  ~MetricsHttpServer();

  /// Where it listens, with the actual port.
  const std::string& address() const;

 private:
  struct Parts;  // holds everything that includes civetweb

  explicit MetricsHttpServer(std::unique_ptr<Parts> parts);

  const std::unique_ptr<Parts> parts_;
};

}  // namespace moed
