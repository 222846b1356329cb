#pragma once

#include "config/json_reader.h"

namespace moed {

/// Reads the `quantization_config` of a config.json. True if matrices may be stored as e4m3 with a
/// scale for each block of 128 x 128 (`quant_method` "fp8", as Qwen3-FP8 and DeepSeek-V3 have it):
/// which ones are, their files say. False when there is none. What is wrong goes to json.status():
/// UNIMPLEMENTED for another method or kind of fp8, INVALID_ARGUMENT for a key that is not known.
bool ReadFp8Weights(const JsonReader& json);

}  // namespace moed
