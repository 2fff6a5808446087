#pragma once
// A whole run in miniature: a random Llama of 11 k parameters, a stream of random tokens, a configuration file.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <random>
#include <string>

#include "longlora/train/run.h"
#include "longlora/train/stop_request.h"
#include "support/temp_dir.h"

namespace longlora {

inline constexpr int64_t kTinyVocab = 48;

inline std::string tiny_config_json() {
  return R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "intermediate_size": 40,
 "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 48,
 "max_position_embeddings": 16, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "tie_word_embeddings": false,
 "torch_dtype": "float32", "eos_token_id": 2})";
}

/// Little-endian uint16 ids that repeat with noise, so that there is something to learn.
inline std::string tiny_tokens(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::string bytes;
  for (size_t i = 0; i < count; ++i) {
    const uint16_t id = random() % 4 == 0 ? static_cast<uint16_t>(3 + random() % (kTinyVocab - 3)) : static_cast<uint16_t>(3 + i % 11);
    bytes.push_back(static_cast<char>(id & 0xff));
    bytes.push_back(static_cast<char>(id >> 8));
  }
  return bytes;
}

struct TinyRun {
  TempDir dir;
  TinyRun() {
    dir.write("model/config.json", tiny_config_json());
    dir.write("train.bin", tiny_tokens(1500, 1));
    dir.write("validation.bin", tiny_tokens(200, 2));
    block_stop_signals();
    at::set_num_threads(1);  // tensors this small gain nothing from a second thread, and a busy machine loses
  }

  /// YAML of the run; `extra` lines are appended.
  std::string yaml(const std::string& mode, const std::string& output, const std::string& extra = "") const {
    return fmt::format(
        "model: {{path: {0}/model, init: random}}\ntuning: {{mode: {1}}}\n"
        "data:\n  train: [{{path: {0}/train.bin, format: raw_uint16}}]\n  sequence_length: 32\n"
        "train: {{steps: 1000, global_batch: 3, micro_batch: 1}}\noptimizer: {{learning_rate: 1e-2}}\n"
        "schedule: {{warmup_steps: 2}}\nprecision: {{compute: fp32}}\noutput_dir: {0}/{2}\n{3}",
        dir.path().string(), mode, output, extra);
  }

  TrainRequest request(const std::string& yaml_text, const std::vector<std::pair<std::string, std::string>>& sets) const {
    TrainRequest request;
    request.sources.file = dir.write("run.yaml", yaml_text);
    for (const auto& [key, value] : sets) request.sources.assignments.push_back({key, value, "--set"});
    request.progress = ProgressMode::none;
    return request;
  }

  std::vector<std::string> metrics(const std::string& output) const {
    std::vector<std::string> lines;
    std::ifstream file(dir / (output + "/metrics.jsonl"));
    for (std::string line; std::getline(file, line);) lines.push_back(line);
    return lines;
  }
};

/// A metrics line without time, speed and memory: equal for equal runs.
inline std::string lasting(const std::string& line) { return line.substr(0, line.find(", \"seconds\"")); }

}  // namespace longlora
