#include "kernels/cpu/simd_avx2.h"
//
#include "kernels/cpu/rows_inl.h"

namespace moed::kernels::cpu {

const RowKernels kRowsAvx2 = kRowKernels;

}  // namespace moed::kernels::cpu
