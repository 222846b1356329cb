#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "client/command_line.h"

namespace moed {

/// The way to one server: a channel and the token; and for the one call that a command makes a
/// context with its deadline and the means to cancel it.
///
/// Owned by the command. Interrupt may come from any thread.
class Connection {
 public:
  /// Reads the files of token and certificates; does not connect yet.
  static absl::StatusOr<std::unique_ptr<Connection>> Create(const ConnectionFlags& flags);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }
  grpc::ClientContext& context() { return context_; }

  /// Gives the token to the context of a further call over channel(). Any thread.
  void Authorize(grpc::ClientContext& context) const;

  /// Cancels the call, also one that has not started.
  void Interrupt();
  bool interrupted() const;

 private:
  Connection() = default;

  std::string token_;                       // "" when there is none
  std::shared_ptr<grpc::Channel> channel_;  // gRPC's stubs share it
  grpc::ClientContext context_;
  mutable absl::Mutex mutex_;
  bool interrupted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace moed
