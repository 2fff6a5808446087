#pragma once
// Spellings shared by export and import.
#include <cstdint>
#include <optional>
#include <string>

#include "longlora/core/dtype.h"

namespace longlora::apps {

std::optional<DType> dtype_from(const std::string& name);               // "", bf16, fp16, fp32
uint64_t bytes_from(const std::string& text, const std::string& flag);  // 5GB, 500MB, 2GiB, 1048576; ErrorKind::usage

}  // namespace longlora::apps
