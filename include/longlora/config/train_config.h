#pragma once
// The configuration of a run: plain data with defaults. One field table (src/config/fields.h) drives reading, --set, help, schema,
// documentation, log, resume class; this struct has no behaviour. Meaning of every key: docs/config.md (generated).

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace longlora {

enum class WeightDType { automatic, bf16, fp16, fp32 };
enum class InitKind { load, random };
enum class RopeMethod { none, linear, dynamic, yarn, llama3 };
enum class AttentionKind { s2, full, s2_wrap };
enum class AttentionPattern { cross_heads, cross_layers, plain_only, shifted_only };
enum class GroupPreset { none, longlora_sft };
enum class TuningMode { lora, full, none };
enum class PackingKind { concat, pad, pack };
enum class TruncateKind { keep_answer, right, drop };
enum class BadRowAction { stop, skip };
enum class ScheduleKind { constant_with_warmup, linear, cosine };
enum class ComputeType { automatic, bf16, fp16, fp32 };
enum class MemoryPolicy { automatic, save_all, save_attention, checkpoint, checkpoint_offload };
enum class HaloStreaming { automatic, on, off, full_host };
enum class OnOom { step_down, stop };
enum class DeviceKind { automatic, cuda, cpu };
enum class DistBackend { automatic, single, tcp, nccl };
enum class ShardWeights { automatic, none, frozen };
enum class AutoBool { automatic, on, off };
enum class NonFiniteAction { stop, skip };
enum class EvaluateAttention { full, as_trained };
enum class LoraTarget { q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj };

/// One entry of data.train / data.validation.
struct DataEntry {
  std::string path;                    // file, folder or glob
  std::string format = "auto";         // auto text jsonl alpaca sharegpt messages tokens llmc raw_uint16
  std::optional<double> weight;
  std::string field = "text";          // jsonl
  std::string split = "file";          // text: file, blank_line, separator
  std::string separator;               // text with split: separator
  bool operator==(const DataEntry&) const = default;
};

struct TrainConfig {
  std::string preset;
  struct Model {
    std::string path;
    WeightDType dtype = WeightDType::automatic;
    InitKind init = InitKind::load;
  } model;
  struct Rope {
    RopeMethod scaling = RopeMethod::linear;
    std::optional<double> factor;      // total factor; absent = auto
    std::optional<double> theta;
  } rope;
  struct Attention {
    AttentionKind kind = AttentionKind::s2;
    std::optional<double> group_ratio; // absent and no size/preset: 0.25
    std::optional<int64_t> group_size; // tokens, even
    GroupPreset group_preset = GroupPreset::none;
    std::optional<AttentionPattern> pattern;   // absent: cross_heads; refused with kind: full
    bool deterministic = true;
    int64_t full_steps = 0;
  } attention;
  struct Tuning {
    TuningMode mode = TuningMode::lora;
    struct Lora {
      int64_t rank = 8;
      double alpha = 16;
      double drop_probability = 0;
      bool rslora = false;
      std::vector<LoraTarget> targets = {LoraTarget::q_proj, LoraTarget::k_proj, LoraTarget::v_proj, LoraTarget::o_proj};
    } lora;
    bool train_norms = true;
    bool train_embeddings = true;
    std::optional<bool> train_head;    // absent: false untied, follows the embedding when tied
  } tuning;
  struct Data {
    std::vector<DataEntry> train;
    std::vector<DataEntry> validation;
    int64_t sequence_length = 0;
    bool shuffle = true;
    int64_t prefetch = 2;
    std::optional<int64_t> eos;
    std::string train_on = "answers";
    std::string system_prompt;
    bool parse_special_tokens = false;
    int64_t max_record_bytes = int64_t{64} << 20;
    bool allow_append = false;
    PackingKind packing = PackingKind::concat;
    bool document_mask = false;
    std::string template_name = "none";
    TruncateKind truncate = TruncateKind::keep_answer;
    BadRowAction on_bad_row = BadRowAction::stop;
  } data;
  struct Train {
    std::optional<int64_t> steps;
    std::optional<double> epochs;
    int64_t global_batch = 64;
    int64_t micro_batch = 1;
    int64_t seed = 42;
  } train;
  struct Optimizer {
    double learning_rate = 2e-5;
    std::vector<double> betas = {0.9, 0.95};
    double eps = 1e-8;
    double weight_decay = 0;
    double clip_norm = 1.0;
    std::optional<double> embedding_learning_rate;
    std::optional<double> norm_learning_rate;
  } optimizer;
  struct Schedule {
    ScheduleKind kind = ScheduleKind::constant_with_warmup;
    int64_t warmup_steps = 20;
    double floor = 0;                  // fraction of the peak rate
  } schedule;
  struct Precision { ComputeType compute = ComputeType::automatic; } precision;
  struct Memory {
    MemoryPolicy policy = MemoryPolicy::automatic;
    HaloStreaming halo_streaming = HaloStreaming::automatic;
    std::optional<int64_t> device_budget;   // bytes
    std::optional<int64_t> host_budget;     // bytes
    OnOom on_oom = OnOom::step_down;
  } memory;
  DeviceKind device = DeviceKind::automatic;
  struct Dist {
    DistBackend backend = DistBackend::automatic;
    ShardWeights shard_weights = ShardWeights::automatic;
    AutoBool shard_state = AutoBool::automatic;
    int64_t sequence_parallel = 1;
    int64_t timeout_seconds = 600;
  } dist;
  struct Checkpoint {
    int64_t every = 100;
    int64_t keep = 2;
    std::string dir;                   // empty: output_dir/checkpoints
  } checkpoint;
  struct Evaluate {
    int64_t every = 0;                 // steps; 0 = off
    struct Perplexity {
      std::vector<int64_t> contexts;   // empty: data.sequence_length
      int64_t max_tokens = 65536;      // of each validation file
    } perplexity;
    struct Passkey {
      std::vector<int64_t> contexts;
      int64_t trials = 10;
    } passkey;
    EvaluateAttention attention = EvaluateAttention::full;
  } evaluate;
  bool weights_check_finite = true;
  NonFiniteAction nonfinite_action = NonFiniteAction::stop;
  struct Log {
    int64_t every = 1;
    bool tensorboard = true;
  } log;
  std::string output_dir;
  bool deterministic = true;
};

}  // namespace longlora
