#pragma once

#include <string>

namespace nccl_stand_in {

/// What goes wrong on purpose, from the environment:
///
///   NCCL_STAND_IN_FAULT=KIND:RANK:OPERATION
///
/// names a rank and its how-manieth operation (a group of calls, or a call outside of groups; 1 is
/// the first of a communicator). KIND is
///   die          the process of the rank is killed
///   hang         the operation never ends on this rank
///   async_error  likewise, and the asynchronous error becomes ncclRemoteError
///   call_error   the call returns ncclInternalError
///   stuck_call   the call stays ncclInProgress
///   join_hang    the rank never joins the group (OPERATION is not looked at)
///   join_error   joining fails with ncclSystemError
/// NCCL_STAND_IN_FAULT_ONCE=FILE: strikes only if FILE can be removed, so once.
struct Fault {
  std::string kind;
  int rank = -1;
  int operation = 0;
  std::string once;

  /// Ends the process when a variable makes no sense.
  static Fault FromEnvironment();

  /// Whether it happens now; removes the file.
  bool Strikes(const char* what, int on_rank, int on_operation) const;
};

/// NCCL_STAND_IN_POLLS: for how many looks at ncclCommGetAsyncError a non-blocking call stays
/// ncclInProgress (default 1).
int NumPollsFromEnvironment();

}  // namespace nccl_stand_in
