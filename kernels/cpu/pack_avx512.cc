#include "kernels/cpu/simd_avx512.h"
//
#include "kernels/cpu/simd_pack_avx512.h"
//
#include "kernels/cpu/pack_inl.h"

namespace moed::kernels::cpu {

const PackKernels kPackAvx512 = kPackKernels;

}  // namespace moed::kernels::cpu
