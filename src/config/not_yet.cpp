// Settings whose feature comes with a later version: refused by name, never ignored. A finished feature deletes its line here.

#include <fmt/format.h>

#include "config/checks.h"
#include "longlora/config/names.h"

namespace longlora {

void Checks::not_yet(std::string_view key, std::string_view value, std::string_view instead) {
  report(key, fmt::format("'{}' is not in this version", value), std::string(instead));
}

void Checks::check_supported_data() {
  const TrainConfig::Data& data = c_.data;
  const auto named = [&](std::string_view key, auto value, auto supported) {
    if (value != supported) not_yet(key, name_of_value(value), fmt::format("use {}", name_of_value(supported)));
  };
  named("data.packing", data.packing, PackingKind::concat);
  named("data.truncate", data.truncate, TruncateKind::keep_answer);
  named("data.on_bad_row", data.on_bad_row, BadRowAction::stop);
  if (data.template_name != "none") not_yet("data.template", data.template_name, "use none");
  if (data.train_on != "answers") not_yet("data.train_on", data.train_on, "use answers");
  if (!data.system_prompt.empty()) report("data.system_prompt", "conversations are not in this version", "remove it");
}

void Checks::check_supported_machine() {
  if (c_.model.dtype == WeightDType::fp16) not_yet("model.dtype", "fp16", "use bf16 or fp32");
  if (c_.precision.compute == ComputeType::fp16) not_yet("precision.compute", "fp16", "use bf16 or fp32");
  if (!c_.attention.deterministic) not_yet("attention.deterministic", "false", "use true");
  if (c_.memory.halo_streaming == HaloStreaming::full_host) not_yet("memory.halo_streaming", "full_host", "use auto");
  if (!c_.evaluate.passkey.contexts.empty()) report("evaluate.passkey.contexts", "passkey retrieval is not in this version", "remove it");
  if (c_.evaluate.passkey.trials != TrainConfig{}.evaluate.passkey.trials)
    report("evaluate.passkey.trials", "passkey retrieval is not in this version", "remove it");
}

}  // namespace longlora
