#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/nccl_stand_in/group_memory.h"

namespace nccl_stand_in {

enum class OperationKind : uint32_t { kSendReceive = 1, kAllGather = 2 };

/// One message of an operation, as its sender or its receiver sees it.
struct Transfer {
  OperationKind kind = OperationKind::kSendReceive;
  bool is_send = false;
  int peer = 0;
  unsigned char* data = nullptr;  // device memory
  size_t bytes = 0;
  size_t moved_bytes = 0;
  bool done = false;
};

/// What a communicator shares with its work on streams. It outlives the communicator as long as
/// such work is there.
struct CommState {
  std::unique_ptr<GroupMemory> memory;
  int rank = 0;
  int num_ranks = 0;
  bool aborted = false;
  int async_error = 0;
  std::string last_error;
};

/// The transfers of one group of calls: all of them go on side by side, those of one direction
/// with one peer one after the other. As with NCCL, a message is sent when its receiver has taken
/// it, so that ranks which wait for each other in the wrong order hang here too.
///
/// A piece of a stream's work; used from the thread that runs the stream.
class Operation {
 public:
  Operation(std::shared_ptr<CommState> comm, std::vector<Transfer> transfers)
      : comm_(std::move(comm)), transfers_(std::move(transfers)) {}

  /// Does what can be done without waiting. True when all is done or the communicator was aborted;
  /// the next call then starts anew (a graph launches it again).
  bool Poll();

  /// Never does anything until the communicator is aborted.
  void HangForever() { hangs_ = true; }

 private:
  bool IsBlocked(size_t index) const;
  bool CanMove(const Transfer& transfer) const;
  bool Move(Transfer& transfer);
  void Send(Transfer& transfer, Channel& channel);
  void Receive(Transfer& transfer, Channel& channel);
  Channel& channel(const Transfer& transfer) const;

  const std::shared_ptr<CommState> comm_;
  std::vector<Transfer> transfers_;
  bool hangs_ = false;
};

}  // namespace nccl_stand_in
