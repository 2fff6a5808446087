#pragma once
// The four shapes in which config.json files state the rotary scaling (docs/formats.md).

#include "config/config_json_reader.h"
#include "longlora/config/model_config.h"

namespace longlora {

/// Reads rope_theta, rope_scaling, rope_parameters and original_max_position_embeddings of the whole file's object.
RopeScaling read_rope(const JsonValue& root, int64_t max_position, ConfigJsonReader&);

}  // namespace longlora
