#pragma once

#include <memory>
#include <string>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "client/connection.h"
#include "client/load/server/server_sample.h"
#include "client/load/stream/run_clock.h"
#include "moed/v1/admin.grpc.pb.h"

namespace moed::load {

/// Asks a server how it fares, once a second during a run, over a connection of its own: GetStatus,
/// GetExperts and, when there is an address, its metrics. What the server does not answer is left
/// out, with one sentence about it.
///
/// Owned by the command. It has a thread of its own between the constructor and Finish.
class ServerSampler {
 public:
  struct Params {
    const Connection& connection;
    std::string metrics_address;  // "" = do not ask
    absl::Duration period = absl::Seconds(1);
    const RunClock& clock;
  };

  /// Takes the first sample before it returns.
  explicit ServerSampler(const Params& params);
  ServerSampler(const ServerSampler&) = delete;
  ServerSampler& operator=(const ServerSampler&) = delete;
  ~ServerSampler();

  /// Takes the last sample. Call once.
  ServerRecording Finish();

 private:
  void Run();
  void Sample(ExpertCounts& counts);
  void AskStatus(ServerSample& sample);
  void AskExperts(ServerSample& sample, ExpertCounts& counts);
  void AskMetrics(ServerSample& sample);
  void Complain(const std::string& problem);

  const Params params_;
  const std::unique_ptr<v1::AdminService::Stub> stub_;
  ServerRecording recording_;  // of the thread while it runs, as is the next
  ExpertCounts last_counts_;
  absl::Notification stop_;
  std::thread thread_;
};

/// The counts and the placement of a response.
ExpertCounts ToExpertCounts(const v1::GetExpertsResponse& response);

}  // namespace moed::load
