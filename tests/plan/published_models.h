#pragma once
// Shapes of the Llama-2 family, as their config.json states them; V = 32000 as in the tables of docs/memory.md.
#include <string_view>

#include "longlora/config/model_config.h"
#include "longlora/config/run_plan.h"
#include "longlora/plan/memory_plan.h"

namespace longlora {

inline ModelConfig llama2(int64_t layers, int64_t hidden, int64_t ffn, int64_t heads, int64_t kv_heads) {
  ModelConfig m;
  m.vocab_size = 32000, m.num_layers = layers, m.hidden_size = hidden, m.intermediate_size = ffn;
  m.num_heads = heads, m.num_kv_heads = kv_heads, m.head_dim = 128, m.max_position = 4096;
  return m;
}
inline ModelConfig llama2_7b() { return llama2(32, 4096, 11008, 32, 32); }
inline ModelConfig llama2_13b() { return llama2(40, 5120, 13824, 40, 40); }
inline ModelConfig llama2_70b() { return llama2(80, 8192, 28672, 64, 8); }

/// One row of `length` tokens a step, a quarter of it a group.
inline RunPlan one_row(int64_t length) {
  RunPlan run;
  run.sequence_length = run.tokens_per_step = length;
  run.group = resolve_group({}, length);
  return run;
}

inline constexpr double kGib = 1024.0 * 1024.0 * 1024.0;
inline int64_t in_bytes(double gib) { return static_cast<int64_t>(gib * kGib); }

/// A GPU with bf16.
inline PlanTarget gpu_gib(double device, double host = 0) { return {PlanTarget::Device::gpu, 2, in_bytes(device), in_bytes(host)}; }

/// Bytes of a component of the memory that the budget limits; -1 when there is none of this name.
inline int64_t component(const MemoryPlan& plan, std::string_view name) {
  for (const auto& [key, bytes] : plan.on_gpu() ? plan.device_bytes : plan.host_bytes)
    if (key == name) return bytes;
  return -1;
}

inline TrainConfig with_memory(MemoryPolicy policy, HaloStreaming streaming = HaloStreaming::automatic) {
  TrainConfig config;
  config.memory.policy = policy;
  config.memory.halo_streaming = streaming;
  return config;
}

}  // namespace longlora
