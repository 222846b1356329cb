#include "kernels/cpu/simd_avx2.h"
//
#include "kernels/cpu/simd_pack_avx2.h"
//
#include "kernels/cpu/pack_inl.h"

namespace moed::kernels::cpu {

const PackKernels kPackAvx2 = kPackKernels;

}  // namespace moed::kernels::cpu
