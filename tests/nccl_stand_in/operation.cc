#include "tests/nccl_stand_in/operation.h"

#include <sched.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "engine/comm/nccl_library.h"
#include "tests/cuda_emulation/device_state.h"

namespace nccl_stand_in {

bool Operation::Poll() {
  if (comm_->aborted) return true;
  if (hangs_ || comm_->async_error != 0) {
    sched_yield();
    return false;
  }
  bool moved = false, done = true;
  for (size_t i = 0; i < transfers_.size(); ++i) {
    Transfer& transfer = transfers_[i];
    if (!transfer.done && !IsBlocked(i)) moved |= Move(transfer);
    done &= transfer.done;
  }
  if (!moved && !done) sched_yield();
  if (done) {
    for (Transfer& transfer : transfers_) transfer.moved_bytes = 0, transfer.done = false;
  }
  return done;
}

/// Whether an earlier message goes the same way.
bool Operation::IsBlocked(size_t index) const {
  const Transfer& transfer = transfers_[index];
  return std::any_of(transfers_.begin(), transfers_.begin() + static_cast<std::ptrdiff_t>(index),
                     [&](const Transfer& earlier) {
                       return !earlier.done && earlier.is_send == transfer.is_send &&
                              earlier.peer == transfer.peer;
                     });
}

Channel& Operation::channel(const Transfer& transfer) const {
  return transfer.is_send ? comm_->memory->channel(comm_->rank, transfer.peer)
                          : comm_->memory->channel(transfer.peer, comm_->rank);
}

bool Operation::CanMove(const Transfer& transfer) const {
  return (channel(transfer).full.load(std::memory_order_acquire) != 0) != transfer.is_send;
}

/// Moves one chunk, or notices that the last one was taken. False when that must wait.
bool Operation::Move(Transfer& transfer) {
  if (!CanMove(transfer)) return false;
  if (transfer.is_send && transfer.moved_bytes == transfer.bytes) {
    transfer.done = true;
    return true;
  }
  cuda_emulation::Touch([&] {
    if (transfer.is_send) {
      Send(transfer, channel(transfer));
    } else {
      Receive(transfer, channel(transfer));
    }
  });
  return true;
}

void Operation::Send(Transfer& transfer, Channel& channel) {
  channel.kind = static_cast<uint32_t>(transfer.kind);
  channel.total_bytes = transfer.bytes;
  channel.chunk_bytes = std::min(transfer.bytes - transfer.moved_bytes, kChunkBytes);
  std::memcpy(channel.data, transfer.data + transfer.moved_bytes, channel.chunk_bytes);
  transfer.moved_bytes += channel.chunk_bytes;
  channel.full.store(1, std::memory_order_release);
}

void Operation::Receive(Transfer& transfer, Channel& channel) {
  if (channel.kind != static_cast<uint32_t>(transfer.kind) ||
      channel.total_bytes != transfer.bytes) {
    char message[200];
    std::snprintf(
        message, sizeof(message),
        "rank %d sends %llu bytes in a call of kind %u to rank %d, which expects %zu bytes "
        "in a call of kind %u",
        transfer.peer, static_cast<unsigned long long>(channel.total_bytes), channel.kind,
        comm_->rank, transfer.bytes, static_cast<unsigned>(transfer.kind));
    comm_->last_error = message;
    comm_->async_error = moed::nccl::kInvalidUsage;
    return;
  }
  std::memcpy(transfer.data + transfer.moved_bytes, channel.data, channel.chunk_bytes);
  transfer.moved_bytes += channel.chunk_bytes;
  transfer.done = transfer.moved_bytes == transfer.bytes;
  channel.full.store(0, std::memory_order_release);
}

}  // namespace nccl_stand_in
