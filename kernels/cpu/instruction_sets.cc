#include "kernels/cpu/instruction_sets.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace moed::kernels::cpu {
namespace {

#if defined(MOED_X86_KERNELS)
// __builtin_cpu_supports looks at CPUID and at XGETBV: it says no when the system does not save the
// registers in question.
bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool HasAvx512Vnni() { return HasAvx512() && __builtin_cpu_supports("avx512vnni"); }
bool HasAvx512Bf16() { return HasAvx512Vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif

}  // namespace

std::vector<KernelTable> AvailableInstructionSets() {
  std::vector<KernelTable> sets;
#if defined(MOED_X86_KERNELS)
  if (HasAvx512Bf16()) {
    sets.push_back({"avx512_bf16", &kGemmAvx512Bf16, &kIntGemmAvx512Vnni, &kAttentionAvx512Bf16,
                    &kRowsAvx512, &kPackAvx512});
  }
  if (HasAvx512Vnni()) {
    sets.push_back({"avx512_vnni", &kGemmAvx512, &kIntGemmAvx512Vnni, &kAttentionAvx512,
                    &kRowsAvx512, &kPackAvx512});
  }
  if (HasAvx512()) {
    sets.push_back(
        {"avx512", &kGemmAvx512, &kIntGemmAvx512, &kAttentionAvx512, &kRowsAvx512, &kPackAvx512});
  }
  if (HasAvx2()) {
    sets.push_back({"avx2", &kGemmAvx2, &kIntGemmAvx2, &kAttentionAvx2, &kRowsAvx2, &kPackAvx2});
  }
#endif
  sets.push_back({"portable", &kGemmPortable, &kIntGemmPortable, &kAttentionPortable,
                  &kRowsPortable, &kPackPortable});
  return sets;
}

absl::StatusOr<KernelTable> FindInstructionSet(const std::string& name) {
  std::string names;
  for (const KernelTable& set : AvailableInstructionSets()) {
    if (name.empty() || name == set.name) return set;
    absl::StrAppend(&names, names.empty() ? "" : ", ", set.name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("choosing CPU kernels: this machine has no \"", name, "\"; it has ", names));
}

}  // namespace moed::kernels::cpu
