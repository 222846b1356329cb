#include "kernels/cpu/simd_avx2.h"
//
#include "kernels/cpu/simd_int_avx2.h"
//
#include "kernels/cpu/int_gemm_inl.h"

namespace moed::kernels::cpu {

const IntGemmKernels kIntGemmAvx2 = {
    .int8 = RunIntGemm<Int8Format>,
    .int4 = RunIntGemm<Int4Format>,
    .quantize = QuantizeRow,
};

}  // namespace moed::kernels::cpu
