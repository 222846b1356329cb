#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moed {

/// One message under way, or done. Must stay where it is until then.
struct UcxTransfer {
  int32_t peer = 0;
  ucs_status_t status = UCS_OK;
  void* request = nullptr;        // UCX's; null when there is none
  ucp_tag_recv_info_t info = {};  // of a message received: the sender's tag, and how long it was

  bool done() const { return status != UCS_INPROGRESS; }
};

struct UcxBuffer {
  void* data = nullptr;
  size_t bytes = 0;
};

/// Messages whose tag is `tag` in the bits of `mask`.
struct UcxTagMatch {
  ucp_tag_t tag = 0;
  ucp_tag_t mask = 0;
};

/// This rank's end of UCX, and its connections to all other ranks.
///
/// Owned by a communicator, used by its thread only. What UCX reports by callback comes from
/// Progress() and from the calls themselves.
class UcxWorker {
 public:
  static absl::StatusOr<std::unique_ptr<UcxWorker>> Create();
  UcxWorker(const UcxWorker&) = delete;
  UcxWorker& operator=(const UcxWorker&) = delete;
  ~UcxWorker();  // says good-bye: peers that wait for this rank get an error

  /// Where other ranks reach this one: bytes that only UCX understands.
  absl::StatusOr<std::string> Address() const;

  /// Connects to addresses[r] for all r but `own_rank`. Whether they can be reached shows later.
  absl::Status Connect(std::span<const std::string> addresses, int32_t own_rank);

  void Send(int32_t peer, const void* data, size_t bytes, ucp_tag_t tag, UcxTransfer& transfer);
  /// Takes the next message that matches, which must be the peer's.
  void Receive(int32_t peer, const UcxBuffer& buffer, const UcxTagMatch& match,
               UcxTransfer& transfer);

  /// Moves things on. False when there was nothing to do.
  bool Progress() { return ucp_worker_progress(worker_) != 0; }
  /// Sleeps until there is something to do, at most `timeout`.
  void Sleep(absl::Duration timeout);

  /// Why the connection to `peer` is lost; UCS_OK while it is not.
  ucs_status_t connection(int32_t peer) const {
    return connections_[static_cast<size_t>(peer)].status;
  }

  /// Gives back what UCX holds for transfers that are done.
  static void Release(std::span<UcxTransfer> transfers);

  /// Closes all connections and ends what is under way: afterwards UCX touches none of the
  /// transfers and their buffers.
  void Abandon(std::span<UcxTransfer> receives, std::span<UcxTransfer> sends);

 private:
  struct Connection {
    ucp_ep_h endpoint = nullptr;
    ucs_status_t status = UCS_OK;
  };

  UcxWorker() = default;
  absl::Status Open();
  enum class Closing { kFlush, kForce };
  void Close(Closing closing);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int event_fd_ = -1;                    // UCX's
  std::vector<Connection> connections_;  // [num_ranks]; fixed once UCX knows their addresses
};

}  // namespace moed
