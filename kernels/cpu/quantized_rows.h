#pragma once

#include <cstdint>

#include "kernels/cpu/cpu_context.h"
#include "kernels/tensor_view.h"

namespace moed::kernels::cpu {

/// The rows of x (bf16) as products with integer weights want them, each QuantizedRowBytes(x.cols)
/// long; in the context's shared scratch, valid until it is reserved again.
const void* QuantizeRows(CpuContext& context, const TensorView& x, int32_t weight_offset);

}  // namespace moed::kernels::cpu
