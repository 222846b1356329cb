#include "kernels/cpu/ops.h"

namespace moed::kernels::cpu {

void EmbedTokens(CpuContext& context, const PackedLinear& table, const int32_t* ids, float scale,
                 TensorView hidden) {
  // A row of the packed table touches a cache line per pair of elements: count it as such.
  context.ForEachRow(hidden.rows, hidden.cols * 16, [&](int64_t row, int) {
    table.CopyRow(ids[row], scale, hidden.as<float>() + row * hidden.cols);
  });
}

}  // namespace moed::kernels::cpu
