#include "kernels/cpu/quantized_rows.h"

namespace moed::kernels::cpu {

const void* QuantizeRows(CpuContext& context, const TensorView& x, int32_t weight_offset) {
  const int64_t row_bytes = QuantizedRowBytes(x.cols);
  char* rows = static_cast<char*>(context.ReserveShared(x.rows * row_bytes));
  const auto quantize = context.kernels().int_gemm->quantize;
  context.ForEachRow(x.rows, x.cols, [&](int64_t row, int) {
    quantize(x.as<uint16_t>() + row * x.cols, x.cols, weight_offset, rows + row * row_bytes);
  });
  return rows;
}

}  // namespace moed::kernels::cpu
