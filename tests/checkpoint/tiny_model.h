#pragma once
// Tiny Llama folders and models with known random values.
#include <fmt/format.h>

#include <cstring>
#include <random>
#include <string>

#include "longlora/checkpoint/model_io.h"
#include "longlora/formats/weights.h"
#include "longlora/model/llama.h"
#include "support/temp_dir.h"

namespace longlora {

struct TinyModel {
  bool tied = false;
  DType dtype = DType::bf16;
  std::string extra_keys;  // e.g. "\"longlora_train\": {...},\n"
  int64_t vocabulary = 40;
};

inline std::string tiny_config(const TinyModel& tiny) {
  return fmt::format(
      "{{\n  \"architectures\": [\n    \"LlamaForCausalLM\"\n  ],\n  {}\"hidden_size\": 24,\n  \"intermediate_size\": 40,\n"
      "  \"max_position_embeddings\": 64,\n  \"model_type\": \"llama\",\n  \"num_attention_heads\": 3,\n  \"num_hidden_layers\": 2,\n"
      "  \"num_key_value_heads\": 1,\n  \"rms_norm_eps\": 1e-05,\n  \"rope_theta\": 10000.0,\n  \"tie_word_embeddings\": {},\n"
      "  \"torch_dtype\": \"{}\",\n  \"vocab_size\": {}\n}}\n",
      tiny.extra_keys, tiny.tied, tiny.dtype == DType::bf16 ? "bfloat16" : "float32", tiny.vocabulary);
}

inline std::vector<float> random_values(const std::string& name, uint64_t count) {
  std::mt19937_64 random(std::hash<std::string>()(name));
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// Values as bytes of a dtype (f32, f16 or bf16).
inline std::vector<std::byte> encoded(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = dtype == DType::bf16 ? float_to_bf16(values[i]) : float_to_f16(values[i]);
    if (dtype == DType::f32)
      std::memcpy(bytes.data() + i * 4, &values[i], 4);
    else
      std::memcpy(bytes.data() + i * 2, &half, 2);
  }
  return bytes;
}

struct NamedTensor {
  std::string name;
  Shape shape;
  std::vector<float> values;
};

inline void write_tensors(const std::filesystem::path& file, const std::vector<NamedTensor>& tensors, DType dtype) {
  std::vector<SafetensorsWriter::Declared> declared;
  for (const NamedTensor& tensor : tensors) declared.push_back({tensor.name, dtype, tensor.shape});
  SafetensorsWriter writer(file, declared);
  for (size_t i = 0; i < writer.order().size(); ++i) {
    for (const NamedTensor& tensor : tensors) {
      if (tensor.name == writer.order()[i].name) writer.write(i, encoded(tensor.values, dtype));
    }
  }
  writer.finish();
}

/// A Hugging Face folder with random weights.
inline std::filesystem::path make_tiny(const TempDir& dir, const std::string& name, const TinyModel& tiny = {}) {
  dir.write(name + "/config.json", tiny_config(tiny));
  dir.write(name + "/tokenizer_config.json", "{\n  \"model_max_length\": 64,\n  \"bos_token\": \"<s>\"\n}\n");
  std::vector<NamedTensor> tensors;
  for (const TensorSpec& spec : tensor_table(read_model_config(dir / name))) {
    tensors.push_back({spec.name, spec.shape, random_values(spec.name, num_elements(spec.shape))});
  }
  write_tensors(dir / name / "model.safetensors", tensors, tiny.dtype);
  return dir / name;
}

inline std::unique_ptr<LlamaModel> make_model(const ModelConfig& config, const TrainConfig::Tuning& tuning,
                                              ComputeType compute = ComputeType::fp32) {
  auto model = std::make_unique<LlamaModel>(config, config.rope, config.max_position, config.max_position,
                                            ModelOptions{.compute = compute, .tuning = tuning, .row_tile = 16});
  model->initialise_lora();
  return model;
}

/// Every trainable value moved a little, as training would.
inline void disturb(LlamaModel& model) {
  for (Parameter* parameter : model.trainable()) {
    const std::vector<float> noise = random_values(parameter->name + "?", static_cast<uint64_t>(parameter->master.numel()));
    float* values = parameter->master.data_ptr<float>();
    for (size_t i = 0; i < noise.size(); ++i) values[i] += noise[i];
    if (parameter->weight.data_ptr() != parameter->master.data_ptr()) parameter->weight.copy_(parameter->master);
  }
}

/// A RoPE extension to 4 x 64 tokens, as training at that length would resolve it.
inline ExportContext context_of(const BaseModel& base, int64_t sequence_length = 256) {
  return {.base = &base,
          .rope = extend_rope(base.config, {}, sequence_length),
          .version = "1.2.3",
          .group = 64,
          .attention = AttentionKind::s2,
          .card = {{"steps", "7"}}};
}

inline TrainConfig::Tuning lora_tuning(int64_t rank = 4) {
  TrainConfig::Tuning tuning;
  tuning.lora.rank = rank;
  return tuning;
}

inline TrainConfig::Tuning full_tuning() {
  TrainConfig::Tuning tuning;
  tuning.mode = TuningMode::full;
  return tuning;
}

inline std::map<std::string, std::vector<float>> masters_of(LlamaModel& model) {
  std::map<std::string, std::vector<float>> masters;
  for (Parameter* p : model.trainable()) {
    const float* values = p->master.data_ptr<float>();
    masters[p->name].assign(values, values + p->master.numel());
  }
  return masters;
}

inline std::vector<float> read_floats(const WeightSource& source, const TensorInfo& info) {
  std::vector<std::byte> bytes(info.bytes);
  source.read(info, 0, bytes);
  std::vector<float> values(num_elements(info.shape));
  for (size_t i = 0; i < values.size(); ++i) {
    uint16_t half = 0;
    if (info.dtype == DType::f32)
      std::memcpy(&values[i], bytes.data() + 4 * i, 4);
    else
      std::memcpy(&half, bytes.data() + 2 * i, 2);
    if (info.dtype == DType::bf16) values[i] = bf16_to_float(half);
    if (info.dtype == DType::f16) values[i] = f16_to_float(half);
  }
  return values;
}

}  // namespace longlora
