#pragma once

#include <nlohmann/json.hpp>

#include "client/load/load_flags.h"
#include "client/load/load_spec.h"

namespace moed::load {

/// What has to be equal for two results to be comparable.
nlohmann::ordered_json DescribeLoad(const LoadFlags& flags, const LoadSpec& spec);

}  // namespace moed::load
