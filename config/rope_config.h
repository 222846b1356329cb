#pragma once

#include "config/json_reader.h"
#include "config/model_config.h"

namespace moed {

/// Reads the rotary embedding of a config.json in either spelling: `rope_theta` + `rope_scaling`
/// (transformers 4) or one `rope_parameters` (transformers 5), which may be a map by layer type.
/// What is wrong goes to json.status(): INVALID_ARGUMENT for a value, UNIMPLEMENTED for a type or
/// key that is not known.
RopeConfig ReadRopeConfig(const JsonReader& json, double default_theta, int64_t max_positions);

}  // namespace moed
