#include "kernels/cpu/simd_portable.h"
//
#include "kernels/cpu/rows_inl.h"

namespace moed::kernels::cpu {

const RowKernels kRowsPortable = kRowKernels;

}  // namespace moed::kernels::cpu
