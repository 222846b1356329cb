#pragma once

#include <cstdint>
#include <string>

#include "config/model_config.h"

namespace moed {

/// The model as its callers see it. A value, fixed for the life of the daemon.
struct ServedModel {
  std::string name;
  ModelConfig config;
  GenerationDefaults defaults;
  int32_t vocab_size = 0;               // ids below it have a token, but for the holes
  std::vector<int32_t> hole_token_ids;  // below vocab_size and without a token; sorted, few
  int32_t max_model_len = 0;            // prompt and generated tokens together
  int64_t max_text_bytes = 0;
  std::string dtype;
  int32_t block_size = 0;
  std::string server_version;
};

}  // namespace moed
