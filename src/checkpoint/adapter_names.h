#pragma once
// Names of tensors in PEFT adapter files (docs/formats.md): the only place that knows them.
#include <string>
#include <string_view>

namespace longlora {

inline constexpr std::string_view kPeftPrefix = "base_model.model.";

/// "model.norm.weight" -> "base_model.model.model.norm.weight".
inline std::string peft_name(std::string_view parameter) { return std::string(kPeftPrefix) + std::string(parameter); }

/// Inverse, accepting ".default." before "weight" of LoRA tensors and ".modules_to_save.default." of saved modules. Names without the
/// prefix are returned as they are.
std::string parameter_name(std::string_view peft);

/// "model.layers.3.mlp.up_proj.lora_A.weight" -> "up_proj"; empty for other names.
std::string lora_target_of(std::string_view parameter);

}  // namespace longlora
