// Stands in for ucx_communicator.cc where UCX was not found.

#include "engine/comm/ucx_communicator.h"

namespace moed {

bool HaveUcx() { return false; }

absl::StatusOr<std::unique_ptr<Communicator>> CreateUcxCommunicator(const UcxOptions&) {
  return absl::UnimplementedError(
      "joining the exchange group: this program was built without UCX, which CPU ranks on several "
      "hosts exchange through (package libucx-dev, then build again)");
}

}  // namespace moed
