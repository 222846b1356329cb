#include "kernels/cpu/simd_portable.h"
//
#include "kernels/cpu/simd_pack_portable.h"
//
#include "kernels/cpu/pack_inl.h"

namespace moed::kernels::cpu {

const PackKernels kPackPortable = kPackKernels;

}  // namespace moed::kernels::cpu
