#include "tests/nccl_stand_in/fault.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace nccl_stand_in {
namespace {

[[noreturn]] void Refuse(const char* variable, const char* value) {
  std::fprintf(stderr, "NCCL stand-in: %s=%s makes no sense; see fault.h\n", variable, value);
  std::exit(2);
}

}  // namespace

Fault Fault::FromEnvironment() {
  Fault fault;
  const char* text = std::getenv("NCCL_STAND_IN_FAULT");
  if (text == nullptr || *text == '\0') return fault;
  char kind[32] = {};
  if (std::sscanf(text, "%31[a-z_]:%d:%d", kind, &fault.rank, &fault.operation) != 3) {
    Refuse("NCCL_STAND_IN_FAULT", text);
  }
  fault.kind = kind;
  if (const char* once = std::getenv("NCCL_STAND_IN_FAULT_ONCE")) fault.once = once;
  return fault;
}

bool Fault::Strikes(const char* what, int on_rank, int on_operation) const {
  if (kind != what || rank != on_rank || operation != on_operation) return false;
  return once.empty() || ::unlink(once.c_str()) == 0;
}

int NumPollsFromEnvironment() {
  const char* text = std::getenv("NCCL_STAND_IN_POLLS");
  if (text == nullptr) return 1;
  char* end = nullptr;
  const long polls = std::strtol(text, &end, 10);
  if (*end != '\0' || polls < 0 || polls > 1000000) Refuse("NCCL_STAND_IN_POLLS", text);
  return static_cast<int>(polls);
}

}  // namespace nccl_stand_in
