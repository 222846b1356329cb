/// A library with the symbols of NCCL that moed uses, for processes with the emulated CUDA device.
/// See README.md.

#include <signal.h>

#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "engine/comm/nccl_library.h"
#include "tests/cuda_emulation/device_state.h"
#include "tests/cuda_emulation/emulated_device.h"
#include "tests/nccl_stand_in/fault.h"
#include "tests/nccl_stand_in/group_memory.h"
#include "tests/nccl_stand_in/operation.h"

namespace moed::nccl {

/// A communicator of one rank; used from one thread, as NCCL demands.
struct Comm {
  std::shared_ptr<nccl_stand_in::CommState> state;
  nccl_stand_in::Fault fault = nccl_stand_in::Fault::FromEnvironment();
  int num_operations = 0;
  bool joined = false;
  bool stuck = false;                  // stays in progress for good
  int polls_left = 0;                  // looks until the last call is through
  std::function<void()> when_through;  // puts its work on the stream, not before
};

}  // namespace moed::nccl

namespace nccl_stand_in {
namespace {

using moed::nccl::Comm;
using moed::nccl::Result;

/// The calls between GroupStart and GroupEnd of this thread.
struct OpenGroup {
  int depth = 0;
  Comm* comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Transfer> transfers;
};

OpenGroup& TheGroup() {
  static thread_local OpenGroup group;
  return group;
}

Result Refuse(Comm& comm, const char* why) {
  comm.state->last_error = why;
  return moed::nccl::kInvalidUsage;
}

/// A non-blocking call: in progress, for as many looks as the environment says.
Result StartCall(Comm& comm, std::function<void()> when_through) {
  comm.polls_left = NumPollsFromEnvironment();
  if (comm.polls_left == 0 && !comm.stuck) {
    when_through();
    return moed::nccl::kSuccess;
  }
  comm.when_through = std::move(when_through);
  return moed::nccl::kInProgress;
}

Result Launch(OpenGroup group) {
  Comm& comm = *group.comm;
  if (!comm.joined) return Refuse(comm, "the communicator has not joined yet");
  if (comm.when_through) return Refuse(comm, "the call before is still in progress");
  const int rank = comm.state->rank, number = ++comm.num_operations;
  if (comm.fault.Strikes("die", rank, number)) ::raise(SIGKILL);
  if (comm.fault.Strikes("call_error", rank, number)) return moed::nccl::kInternalError;
  auto operation = std::make_shared<Operation>(comm.state, std::move(group.transfers));
  if (comm.fault.Strikes("hang", rank, number)) operation->HangForever();
  if (comm.fault.Strikes("async_error", rank, number)) {
    operation->HangForever();
    comm.state->async_error = moed::nccl::kRemoteError;
  }
  comm.stuck = comm.fault.Strikes("stuck_call", rank, number);
  return StartCall(comm, [operation, stream = group.stream] {
    cuda_emulation::EnqueuePolled(stream, [operation] { return operation->Poll(); });
  });
}

/// Adds transfers to the open group, or makes a group of them alone.
Result Add(Comm* comm, void* stream, std::vector<Transfer> transfers) {
  for (const Transfer& transfer : transfers) {
    if (transfer.peer < 0 || transfer.peer >= comm->state->num_ranks) {
      return moed::nccl::kInvalidArgument;
    }
    if (!cuda_emulation::TheDevice().memory.Contains(transfer.data, transfer.bytes)) {
      comm->state->last_error = "a buffer is not device memory, or too small";
      return moed::nccl::kInvalidArgument;
    }
  }
  OpenGroup& open = TheGroup();
  if (open.depth == 0) {
    return Launch({.comm = comm,
                   .stream = static_cast<cudaStream_t>(stream),
                   .transfers = std::move(transfers)});
  }
  if (open.comm != nullptr && open.comm != comm) return Refuse(*comm, "two communicators at once");
  open.comm = comm;
  open.stream = static_cast<cudaStream_t>(stream);
  open.transfers.insert(open.transfers.end(), transfers.begin(), transfers.end());
  return moed::nccl::kSuccess;
}

unsigned char* Bytes(const void* data) {
  return static_cast<unsigned char*>(const_cast<void*>(data));
}

}  // namespace
}  // namespace nccl_stand_in

using moed::nccl::Comm;
using moed::nccl::Config;
using moed::nccl::DataType;
using moed::nccl::Result;
using moed::nccl::UniqueId;
using namespace nccl_stand_in;

extern "C" {

Result ncclGetVersion(int* version) {
  *version = moed::nccl::kOldestVersion;
  return moed::nccl::kSuccess;
}

Result ncclGetUniqueId(UniqueId* id) {
  GroupId group;
  if (!MakeGroup(group)) return moed::nccl::kSystemError;
  *id = {};
  std::memcpy(id->internal, &group, sizeof(group));
  return moed::nccl::kSuccess;
}

Result ncclCommInitRankConfig(Comm** comm, int num_ranks, UniqueId id, int rank, Config* config) {
  if (config->size < sizeof(Config) || config->magic != Config().magic || config->blocking != 0 ||
      num_ranks < 1 || num_ranks > kMaxRanks || rank < 0 || rank >= num_ranks) {
    return moed::nccl::kInvalidArgument;
  }
  GroupId group;
  std::memcpy(&group, id.internal, sizeof(group));
  auto state = std::make_shared<CommState>();
  state->rank = rank;
  state->num_ranks = num_ranks;
  state->memory = GroupMemory::Map(group);
  if (state->memory == nullptr) return moed::nccl::kSystemError;
  *comm = new Comm{.state = state};
  if ((*comm)->fault.Strikes("join_error", rank, (*comm)->fault.operation)) {
    return moed::nccl::kSystemError;
  }
  if ((*comm)->fault.Strikes("join_hang", rank, (*comm)->fault.operation)) {
    (*comm)->stuck = true;
    return moed::nccl::kInProgress;
  }
  return state->memory->Join(rank, num_ranks) ? moed::nccl::kInProgress : moed::nccl::kInvalidUsage;
}

Result ncclCommAbort(Comm* comm) {
  comm->state->aborted = true;
  delete comm;
  return moed::nccl::kSuccess;
}

Result ncclCommDestroy(Comm* comm) { return ncclCommAbort(comm); }

Result ncclCommGetAsyncError(Comm* comm, Result* error) {
  *error = static_cast<Result>(comm->state->async_error);
  if (*error != moed::nccl::kSuccess) return moed::nccl::kSuccess;
  if (!comm->joined) comm->joined = !comm->stuck && comm->state->memory->AllJoined();
  const bool in_progress = !comm->joined || comm->stuck || --comm->polls_left > 0;
  if (in_progress) *error = moed::nccl::kInProgress;
  if (!in_progress && comm->when_through) std::exchange(comm->when_through, nullptr)();
  return moed::nccl::kSuccess;
}

const char* ncclGetErrorString(Result result) {
  constexpr const char* kNames[] = {"no error",
                                    "unhandled cuda error",
                                    "unhandled system error",
                                    "internal error",
                                    "invalid argument",
                                    "invalid usage",
                                    "remote process exited or there was a network error",
                                    "NCCL operation in progress"};
  return result >= 0 && result <= moed::nccl::kInProgress ? kNames[result] : "unknown result code";
}

const char* ncclGetLastError(Comm* comm) { return comm->state->last_error.c_str(); }

Result ncclGroupStart() {
  ++TheGroup().depth;
  return moed::nccl::kSuccess;
}

Result ncclGroupEnd() {
  if (TheGroup().depth == 0) return moed::nccl::kInvalidUsage;
  if (--TheGroup().depth > 0) return moed::nccl::kSuccess;
  OpenGroup group = std::exchange(TheGroup(), {});
  return group.comm == nullptr ? moed::nccl::kSuccess : Launch(std::move(group));
}

Result ncclSend(const void* data, size_t count, DataType, int peer, Comm* comm, void* stream) {
  return Add(comm, stream, {{.is_send = true, .peer = peer, .data = Bytes(data), .bytes = count}});
}

Result ncclRecv(void* data, size_t count, DataType, int peer, Comm* comm, void* stream) {
  return Add(comm, stream, {{.peer = peer, .data = Bytes(data), .bytes = count}});
}

Result ncclAllGather(const void* send, void* recv, size_t count, DataType, Comm* comm,
                     void* stream) {
  std::vector<Transfer> transfers;
  for (int peer = 0; peer < comm->state->num_ranks; ++peer) {
    unsigned char* place = Bytes(recv) + static_cast<size_t>(peer) * count;
    if (peer == comm->state->rank && place == send) continue;
    transfers.push_back({OperationKind::kAllGather, true, peer, Bytes(send), count});
    transfers.push_back({OperationKind::kAllGather, false, peer, place, count});
  }
  return Add(comm, stream, std::move(transfers));
}

}  // extern "C"
