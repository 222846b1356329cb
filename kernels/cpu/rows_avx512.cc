#include "kernels/cpu/simd_avx512.h"
//
#include "kernels/cpu/rows_inl.h"

namespace moed::kernels::cpu {

const RowKernels kRowsAvx512 = kRowKernels;

}  // namespace moed::kernels::cpu
