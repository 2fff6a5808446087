#pragma once
// The field table: every key of the configuration, once. Parser, --set, environment, help, schema, documentation, log, resume class and
// the mutants of the tests are visitors of it. v(row, member, what it may be) is called for each key in the order of the documentation.

#include "config/bounds.h"
#include "longlora/config/config_io.h"

namespace longlora {

struct Row {
  std::string_view key;
  ResumeClass resume;
  std::string_view help;
  std::string_view absent = "none";  // optional members: the word for "not set"
  bool required = false;
  std::string_view shown_default = {};  // when the default is not a constant
};

inline constexpr int64_t kMaxTokens = int64_t{1} << 30;  // of one row: byte counts stay far below 2^63
inline constexpr int64_t kMaxSteps = int64_t{1} << 31;   // the step is one 32-bit word of the random counter
inline constexpr int64_t kMaxBytes = int64_t{1} << 50;

template <class V, class C>
void visit_model(V&& v, C& c) {
  using enum ResumeClass;
  v(Row{"preset", free, "start from a shipped configuration (see `config presets`); this file overrides it", "none", false, "none"},
    c.preset, Text{});
  v(Row{"model.path", free, "Hugging Face folder or .gguf file of the base model", "none", true}, c.model.path, Text{true});
  v(Row{"model.dtype", frozen, "type of the frozen weights; auto: bf16 where the hardware multiplies it natively, else as stored"},
    c.model.dtype, Words{});
  v(Row{"model.init", frozen, "load the weights, or random: a new model from config.json alone"}, c.model.init, Words{});
  v(Row{"rope.scaling", frozen, "how positions beyond the old context are reached; ntk is a synonym of dynamic"}, c.rope.scaling, Words{});
  v(Row{"rope.factor", frozen, "total factor written to config.json; auto: the least that reaches data.sequence_length", "auto"},
    c.rope.factor, Reals{1, 4096});
  v(Row{"rope.theta", frozen, "base of the rotary frequencies; auto: the model's", "auto"}, c.rope.theta, Reals{1, 1e15});
  v(Row{"attention.kind", frozen,
        "s2: shifted sparse attention without leak; s2_wrap: the original's roll, which leaks, for comparison only"},
    c.attention.kind, Words{});
  v(Row{"attention.group_ratio", frozen, "group size as a share of data.sequence_length; 0.25 when no size and no preset is given", "none",
        false, "0.25"},
    c.attention.group_ratio, Reals{0, 1, true});
  v(Row{"attention.group_size", frozen, "group size in tokens, even"}, c.attention.group_size, Integers{2, kMaxTokens, Unit::tokens, true});
  v(Row{"attention.group_preset", frozen, "longlora_sft: the original's rule for fine-tuning on instructions"}, c.attention.group_preset,
    Words{});
  v(Row{"attention.pattern", frozen, "which heads are shifted; cross_heads (half of them) when not given", "none", false, "cross_heads"},
    c.attention.pattern, Words{});
  v(Row{"attention.deterministic", frozen, "false allows an unordered backward pass where one exists"}, c.attention.deterministic, Words{});
  v(Row{"attention.full_steps", explicit_, "the last N steps train with full attention"}, c.attention.full_steps, Integers{0, kMaxSteps});
  v(Row{"tuning.mode", frozen, "lora: adapters and the roles below; full: every weight"}, c.tuning.mode, Words{});
  v(Row{"tuning.lora.rank", frozen, "rank of the adapters; more capacity, more memory"}, c.tuning.lora.rank, Integers{1, 65536});
  v(Row{"tuning.lora.alpha", frozen, "adapters are scaled by alpha / rank"}, c.tuning.lora.alpha, Reals{0, 1e6, true});
  v(Row{"tuning.lora.drop_probability", frozen, "probability that an adapter input is dropped"}, c.tuning.lora.drop_probability,
    Reals{0, 1, false, true});
  v(Row{"tuning.lora.rslora", frozen, "scale by alpha / sqrt(rank) instead"}, c.tuning.lora.rslora, Words{});
  v(Row{"tuning.lora.targets", frozen, "projections with an adapter"}, c.tuning.lora.targets, Words{});
  v(Row{"tuning.train_norms", frozen, "train the norm weights too (LongLoRA's LoRA+)"}, c.tuning.train_norms, Words{});
  v(Row{"tuning.train_embeddings", frozen, "train the token embedding too (LongLoRA's LoRA+)"}, c.tuning.train_embeddings, Words{});
  v(Row{"tuning.train_head", frozen, "train the output head; auto: no, except that a tied head follows the embedding", "auto"},
    c.tuning.train_head, Words{});
}

template <class V, class C>
void visit_data(V&& v, C& c) {
  using enum ResumeClass;
  v(Row{"data.train", frozen, "list of {path, format, weight, field, split, separator}; paths may be folders and globs", "none", true},
    c.data.train, Entries{});
  v(Row{"data.validation", free, "same form; for evaluation during the run"}, c.data.validation, Entries{});
  v(Row{"data.sequence_length", frozen, "tokens in a row: the context that is trained; any number", "none", true}, c.data.sequence_length,
    Integers{2, kMaxTokens, Unit::tokens});
  v(Row{"data.shuffle", frozen, "permute the rows of every epoch; false: file order"}, c.data.shuffle, Words{});
  v(Row{"data.prefetch", free, "steps prepared ahead"}, c.data.prefetch, Integers{0, 1024});
  v(Row{"data.eos", frozen, "id that ends a document; auto: the tokenizer's", "auto"}, c.data.eos, Integers{0, (int64_t{1} << 31) - 1});
  v(Row{"data.train_on", frozen, "tokens of a conversation that are trained"}, c.data.train_on, Text{false, "answers, all"});
  v(Row{"data.system_prompt", frozen, "system prompt for the template"}, c.data.system_prompt, Text{});
  v(Row{"data.parse_special_tokens", frozen, "true: special-token strings inside text become special tokens"}, c.data.parse_special_tokens,
    Words{});
  v(Row{"data.max_record_bytes", frozen, "a longer record is an error"}, c.data.max_record_bytes, Integers{1, kMaxBytes, Unit::bytes});
  v(Row{"data.allow_append", explicit_, "a resumed run accepts data files that grew at their end"}, c.data.allow_append, Words{});
  v(Row{"data.packing", frozen, "concat: documents joined by EOS and cut; pad, pack: whole samples"}, c.data.packing, Words{});
  v(Row{"data.document_mask", frozen, "attention does not cross documents and positions restart in each"}, c.data.document_mask, Words{});
  v(Row{"data.template", frozen, "how conversations become text; none: documents only"}, c.data.template_name,
    Text{false, "none, alpaca, llama2, chatml, llama3"});
  v(Row{"data.truncate", frozen, "what is cut from a conversation that is too long"}, c.data.truncate, Words{});
  v(Row{"data.on_bad_row", frozen, "skip is capped at 0.1 % of the records"}, c.data.on_bad_row, Words{});
}

template <class V, class C>
void visit_training(V&& v, C& c) {
  using enum ResumeClass;
  v(Row{"train.steps", explicit_, "optimizer steps; this or train.epochs"}, c.train.steps, Integers{1, kMaxSteps});
  v(Row{"train.epochs", explicit_, "passes over the data; this or train.steps"}, c.train.epochs, Reals{0, 1e6, true});
  v(Row{"train.global_batch", frozen, "sequences in an optimizer step"}, c.train.global_batch, Integers{1, 1 << 20});
  v(Row{"train.micro_batch", frozen, "sequences in one forward pass"}, c.train.micro_batch, Integers{1, 1 << 16});
  v(Row{"train.seed", frozen, "of every random number of the run"}, c.train.seed, Integers{0, INT64_MAX});
  v(Row{"optimizer.learning_rate", explicit_, "peak rate of AdamW"}, c.optimizer.learning_rate, Reals{0, 1, true});
  v(Row{"optimizer.betas", frozen, "decay of the two moments"}, c.optimizer.betas, Reals{0, 1, false, true, 2});
  v(Row{"optimizer.eps", frozen, "added to the root of the second moment"}, c.optimizer.eps, Reals{0, 1, true});
  v(Row{"optimizer.weight_decay", explicit_, "decoupled decay"}, c.optimizer.weight_decay, Reals{0, 100});
  v(Row{"optimizer.clip_norm", explicit_, "largest norm of the gradient; 0: no clipping"}, c.optimizer.clip_norm, Reals{0, 1e9});
  v(Row{"optimizer.embedding_learning_rate", explicit_, "peak rate of embedding and head; auto: optimizer.learning_rate", "auto"},
    c.optimizer.embedding_learning_rate, Reals{0, 1, true});
  v(Row{"optimizer.norm_learning_rate", explicit_, "peak rate of the norms; auto: optimizer.learning_rate", "auto"},
    c.optimizer.norm_learning_rate, Reals{0, 1, true});
  v(Row{"schedule.kind", explicit_, "course of the rate after the warm-up"}, c.schedule.kind, Words{});
  v(Row{"schedule.warmup_steps", explicit_, "steps in which the rate rises linearly"}, c.schedule.warmup_steps, Integers{0, kMaxSteps});
  v(Row{"schedule.floor", explicit_, "last rate as a share of the peak, for linear and cosine"}, c.schedule.floor, Reals{0, 1});
  v(Row{"precision.compute", frozen, "type of products; auto: bf16 where the hardware multiplies it natively, else fp32"},
    c.precision.compute, Words{});
}

template <class V, class C>
void visit_machine(V&& v, C& c) {
  using enum ResumeClass;
  v(Row{"memory.policy", free, "what is kept between forward and backward; auto: as much as fits. No policy changes a bit of the result"},
    c.memory.policy, Words{});
  v(Row{"memory.halo_streaming", free, "stream long sequences through the device in pieces"}, c.memory.halo_streaming, Words{});
  v(Row{"memory.device_budget", free, "bytes the planner may use on the device; auto: what is free", "auto", false, "free"},
    c.memory.device_budget, Integers{1 << 20, kMaxBytes, Unit::bytes});
  v(Row{"memory.host_budget", free, "bytes of the host that a rank may use; auto: available - 8 GiB, shared by the ranks of the host",
        "auto", false, "(available - 8 GiB) / ranks of the host"},
    c.memory.host_budget, Integers{1 << 20, kMaxBytes, Unit::bytes});
  v(Row{"memory.on_oom", free, "step_down: after running out of memory go on with the next cheaper policy"}, c.memory.on_oom, Words{});
  v(Row{"device", frozen, "where to compute"}, c.device, Words{});
  v(Row{"dist.backend", free, "how ranks talk"}, c.dist.backend, Words{});
  v(Row{"dist.shard_weights", free, "frozen: every rank holds a part of the frozen weights"}, c.dist.shard_weights, Words{});
  v(Row{"dist.shard_state", free, "every rank holds a part of masters and moments"}, c.dist.shard_state, Words{});
  v(Row{"dist.sequence_parallel", frozen, "ranks that share one sequence: 1, 2, 4 or 8"}, c.dist.sequence_parallel, Integers{1, 8});
  v(Row{"dist.timeout_seconds", free, "a rank that is silent for longer is lost"}, c.dist.timeout_seconds, Integers{1, 604800});
}

template <class V, class C>
void visit_outputs(V&& v, C& c) {
  using enum ResumeClass;
  v(Row{"checkpoint.every", free, "steps between checkpoints"}, c.checkpoint.every, Integers{1, kMaxSteps});
  v(Row{"checkpoint.keep", free, "checkpoints kept"}, c.checkpoint.keep, Integers{1, 1000000});
  v(Row{"checkpoint.dir", free, "folder of the checkpoints; empty: output_dir/checkpoints", "none", false, "output_dir/checkpoints"},
    c.checkpoint.dir, Text{});
  v(Row{"evaluate.every", free, "steps between evaluations on data.validation; 0: never"}, c.evaluate.every, Integers{0, kMaxSteps});
  v(Row{"evaluate.perplexity.contexts", free, "lengths; empty: data.sequence_length"}, c.evaluate.perplexity.contexts,
    Integers{2, kMaxTokens, Unit::tokens});
  v(Row{"evaluate.perplexity.max_tokens", free, "first tokens of each validation file that are scored"}, c.evaluate.perplexity.max_tokens,
    Integers{2, int64_t{1} << 40, Unit::tokens});
  v(Row{"evaluate.passkey.contexts", free, "lengths of passkey retrieval; empty: off"}, c.evaluate.passkey.contexts,
    Integers{2, kMaxTokens, Unit::tokens});
  v(Row{"evaluate.passkey.trials", free, "prompts of each length"}, c.evaluate.passkey.trials, Integers{1, 1000000});
  v(Row{"evaluate.attention", free, "full, or as_trained for the ablation"}, c.evaluate.attention, Words{});
  v(Row{"weights.check_finite", free, "scan imported weights for NaN and infinity"}, c.weights_check_finite, Words{});
  v(Row{"nonfinite.action", explicit_, "on a non-finite loss or gradient: stop, or skip at most 3 steps in 100"}, c.nonfinite_action,
    Words{});
  v(Row{"log.every", free, "steps between progress lines on a pipe"}, c.log.every, Integers{1, kMaxSteps});
  v(Row{"log.tensorboard", free, "write TensorBoard events"}, c.log.tensorboard, Words{});
  v(Row{"output_dir", free, "folder of the run; refused if another run holds it", "none", true}, c.output_dir, Text{true});
  v(Row{"deterministic", frozen, "the same bits in every repetition; a changed program is refused on resume"}, c.deterministic, Words{});
}

template <class V, class C>
void visit_fields(V&& v, C& c) {
  visit_model(v, c);
  visit_data(v, c);
  visit_training(v, c);
  visit_machine(v, c);
  visit_outputs(v, c);
}

/// Keys of one entry of data.train and data.validation.
template <class V, class C>
void visit_entry(V&& v, C& entry) {
  using enum ResumeClass;
  v(Row{"path", free, "file, folder or glob", "none", true}, entry.path, Text{true});
  v(Row{"format", frozen, "kind of the file; auto: by its name, then by its content"}, entry.format,
    Text{false, "auto, text, jsonl, alpaca, sharegpt, messages, tokens, llmc, raw_uint16, parquet"});
  v(Row{"weight", frozen, "share of the rows; all entries have one or none has"}, entry.weight, Reals{0, 1e9, true});
  v(Row{"field", frozen, "jsonl: member that holds the text"}, entry.field, Text{});
  v(Row{"split", frozen, "text: what ends a document"}, entry.split, Text{false, "file, blank_line, separator"});
  v(Row{"separator", frozen, "text with split: separator: the line between documents"}, entry.separator, Text{});
}

}  // namespace longlora
