#pragma once
// Spellings of the configuration's enumerations: one table each gives parse, print, help and validity.
// The first name of a value is the one that is printed; further names of it are synonyms.

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "longlora/config/train_config.h"

namespace longlora {

template <class E>
struct Name {
  std::string_view text;
  E value;
};

#define LONGLORA_NAMES(E, count, ...) \
  constexpr std::array<Name<E>, count> names_of(E) { using enum E; return {{__VA_ARGS__}}; }

LONGLORA_NAMES(WeightDType, 4, {"auto", automatic}, {"bf16", bf16}, {"fp16", fp16}, {"fp32", fp32})
LONGLORA_NAMES(InitKind, 2, {"load", load}, {"random", random})
LONGLORA_NAMES(RopeMethod, 6, {"none", none}, {"linear", linear}, {"dynamic", dynamic}, {"ntk", dynamic}, {"yarn", yarn},
               {"llama3", llama3})
LONGLORA_NAMES(AttentionKind, 3, {"s2", s2}, {"full", full}, {"s2_wrap", s2_wrap})
LONGLORA_NAMES(AttentionPattern, 4, {"cross_heads", cross_heads}, {"cross_layers", cross_layers}, {"plain_only", plain_only},
               {"shifted_only", shifted_only})
LONGLORA_NAMES(GroupPreset, 2, {"none", none}, {"longlora_sft", longlora_sft})
LONGLORA_NAMES(TuningMode, 3, {"lora", lora}, {"full", full}, {"none", none})
LONGLORA_NAMES(PackingKind, 3, {"concat", concat}, {"pad", pad}, {"pack", pack})
LONGLORA_NAMES(TruncateKind, 3, {"keep_answer", keep_answer}, {"right", right}, {"drop", drop})
LONGLORA_NAMES(BadRowAction, 2, {"stop", stop}, {"skip", skip})
LONGLORA_NAMES(ScheduleKind, 3, {"constant_with_warmup", constant_with_warmup}, {"linear", linear}, {"cosine", cosine})
LONGLORA_NAMES(ComputeType, 4, {"auto", automatic}, {"bf16", bf16}, {"fp16", fp16}, {"fp32", fp32})
LONGLORA_NAMES(MemoryPolicy, 5, {"auto", automatic}, {"save_all", save_all}, {"save_attention", save_attention}, {"checkpoint", checkpoint},
               {"checkpoint_offload", checkpoint_offload})
LONGLORA_NAMES(HaloStreaming, 4, {"auto", automatic}, {"on", on}, {"off", off}, {"full_host", full_host})
LONGLORA_NAMES(OnOom, 2, {"step_down", step_down}, {"stop", stop})
LONGLORA_NAMES(DeviceKind, 3, {"auto", automatic}, {"cuda", cuda}, {"cpu", cpu})
LONGLORA_NAMES(DistBackend, 4, {"auto", automatic}, {"single", single}, {"tcp", tcp}, {"nccl", nccl})
LONGLORA_NAMES(ShardWeights, 3, {"auto", automatic}, {"none", none}, {"frozen", frozen})
LONGLORA_NAMES(AutoBool, 3, {"auto", automatic}, {"on", on}, {"off", off})
LONGLORA_NAMES(NonFiniteAction, 2, {"stop", stop}, {"skip", skip})
LONGLORA_NAMES(EvaluateAttention, 2, {"full", full}, {"as_trained", as_trained})
LONGLORA_NAMES(LoraTarget, 7, {"q_proj", q_proj}, {"k_proj", k_proj}, {"v_proj", v_proj}, {"o_proj", o_proj}, {"gate_proj", gate_proj},
               {"up_proj", up_proj}, {"down_proj", down_proj})
#undef LONGLORA_NAMES

/// "" for a value outside the table.
template <class E>
constexpr std::string_view name_of_value(E value) {
  for (const auto& name : names_of(E{}))
    if (name.value == value) return name.text;
  return {};
}

template <class E>
constexpr std::optional<E> value_of_name(std::string_view text) {
  for (const auto& name : names_of(E{}))
    if (name.text == text) return name.value;
  return std::nullopt;
}

/// "s2, full, s2_wrap" (synonyms included).
template <class E>
std::string all_names() {
  std::string text;
  for (const auto& name : names_of(E{})) text.append(text.empty() ? "" : ", ").append(name.text);
  return text;
}

}  // namespace longlora
