#pragma once
// Flags about written weights that export and import share.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "longlora/core/dtype.h"

namespace longlora::apps {

std::optional<DType> dtype_from(const std::string& name);  // "", bf16, fp16, fp32
/// --max-shard-size
void add_shard_option(CLI::App& command, uint64_t& bytes);

}  // namespace longlora::apps
