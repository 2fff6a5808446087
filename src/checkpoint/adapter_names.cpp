#include "checkpoint/adapter_names.h"

namespace longlora {
namespace {

void replace_once(std::string& text, std::string_view from, std::string_view to) {
  const size_t at = text.find(from);
  if (at != std::string::npos) text.replace(at, from.size(), to);
}

}  // namespace

std::string parameter_name(std::string_view peft) {
  if (!peft.starts_with(kPeftPrefix)) return std::string(peft);
  std::string name(peft.substr(kPeftPrefix.size()));
  replace_once(name, ".modules_to_save.default.", ".");
  replace_once(name, ".lora_A.default.", ".lora_A.");
  replace_once(name, ".lora_B.default.", ".lora_B.");
  return name;
}

std::string lora_target_of(std::string_view parameter) {
  for (const std::string_view suffix : {".lora_A.weight", ".lora_B.weight"}) {
    if (!parameter.ends_with(suffix)) continue;
    const std::string_view module = parameter.substr(0, parameter.size() - suffix.size());
    return std::string(module.substr(module.rfind('.') + 1));
  }
  return "";
}

}  // namespace longlora
