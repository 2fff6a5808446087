#include "apps/weight_flags.h"

#include "longlora/config/scalar_text.h"

namespace longlora::apps {

std::optional<DType> dtype_from(const std::string& name) {
  if (name == "bf16") return DType::bf16;
  if (name == "fp16") return DType::f16;
  if (name == "fp32") return DType::f32;
  return std::nullopt;
}

void add_shard_option(CLI::App& command, uint64_t& bytes) {
  constexpr const char* kFlag = "--max-shard-size";
  command.add_option_function<std::string>(
      kFlag, [&bytes](const std::string& text) { bytes = static_cast<uint64_t>(size_of_flag(text, Unit::bytes, kFlag)); },
      "largest file, for example 500MB (default: 5GB)");
}

}  // namespace longlora::apps
