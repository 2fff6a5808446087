#include "longlora/model/llama.h"

#include <algorithm>

#include "longlora/config/run_plan.h"
#include "longlora/core/error.h"
#include "model/state.h"

namespace longlora {
namespace {

std::span<const int32_t> as_span(const at::Tensor& t) { return {t.const_data_ptr<int32_t>(), static_cast<size_t>(t.numel())}; }

void check_input(const ModelInput& input) {
  LONGLORA_INVARIANT(input.ids_BT.dim() == 2 && input.ids_BT.scalar_type() == at::kInt && input.ids_BT.is_contiguous());
  const auto rows = static_cast<size_t>(input.ids_BT.size(0));
  LONGLORA_INVARIANT(input.document_starts.empty() || input.document_starts.size() == rows);
  LONGLORA_INVARIANT(input.global_rows.empty() || input.global_rows.size() == rows);
}

}  // namespace

LlamaModel::State::State(const ModelConfig& c, RopeTable table, const ModelOptions& o)
    : config(c),
      options(o),
      parameters(config, options),
      store(parameters.make_store(config, options)),
      rope(std::move(table)),
      policies(static_cast<size_t>(c.num_layers), KeepPolicy::save_all),
      arena(o.device),
      offloaded(o.device),
      tensors(at::TensorOptions().dtype(o.compute == ComputeType::bf16 ? at::kBFloat16 : at::kFloat).device(o.device)) {}

LlamaModel::LlamaModel(const ModelConfig& config, const RopeScaling& rope, int64_t rope_max_position, int64_t rope_sequence_length,
                       const ModelOptions& options)
    : state_(std::make_unique<State>(
          config, RopeTable(rope_frequencies(rope, config.head_dim, rope_max_position, rope_sequence_length), rope_attention_factor(rope)),
          options)) {}

LlamaModel::~LlamaModel() = default;

const ModelConfig& LlamaModel::config() const { return state_->config; }
const ModelOptions& LlamaModel::options() const { return state_->options; }

void LlamaModel::visit(const std::function<void(Parameter&)>& f) {
  for (Parameter& p : state_->parameters.list) f(p);
}

void LlamaModel::sum_over_weight_ranks(std::span<int64_t> values) { state_->store->sum(values); }

std::vector<Parameter*> LlamaModel::trainable() {
  std::vector<Parameter*> result;
  visit([&](Parameter& p) {
    if (p.trainable) result.push_back(&p);
  });
  return result;
}

void LlamaModel::set_attention(const AttentionSettings& settings) { state_->attention = settings; }

void LlamaModel::set_policies(std::vector<LayerPolicy> policies) {
  LONGLORA_INVARIANT(static_cast<int64_t>(policies.size()) == state_->config.num_layers);
  state_->policies = std::move(policies);
}

void LlamaModel::reserve(int64_t activation_bytes, int64_t host_bytes) {
  state_->drop_activations();
  state_->arena.reserve(activation_bytes);
  state_->offloaded.reserve(host_bytes);
}

void LlamaModel::release() {
  state_->drop_activations();
  state_->arena.release();
  state_->offloaded.release();
}

int64_t LlamaModel::activation_peak_bytes() const { return state_->arena.peak_bytes(); }

void LlamaModel::set_sequence_group(dist::Communicator* group) { state_->sequence_group = group; }

std::optional<SequenceContext> LlamaModel::State::sequence_of(const ModelInput& input) const {
  const int64_t tokens = input.ids_BT.size(1);
  if (input.row_tokens == 0 || (input.row_tokens == tokens && input.first_position == 0)) return std::nullopt;
  LONGLORA_CHECK(attention.kind == AttentionKind::s2 && input.document_starts.empty(), config,
                 "rows can be shared by ranks with s2 attention without documents only", "dist.sequence_parallel",
                 "use attention.kind: s2 and data.document_mask: false");
  LONGLORA_INVARIANT(sequence_group != nullptr);
  const SequencePart part = sequence_part(input.row_tokens, attention.group, sequence_group->size(), sequence_group->rank());
  LONGLORA_INVARIANT(part.begin == input.first_position && part.tokens() == tokens);
  return SequenceContext{sequence_group, part, attention.group / 2};
}

void LlamaModel::State::open(const ModelInput& input, Dropout dropout, Pass& pass) {
  check_input(input);
  pass.rows = input.ids_BT.size(0);
  pass.tokens = input.ids_BT.size(1);
  pass.ids = as_span(input.ids_BT);
  pass.sequence = sequence_of(input);
  const int64_t first = pass.sequence ? input.first_position : 0, row_tokens = pass.sequence ? input.row_tokens : pass.tokens;
  pass.position_values = token_positions(pass.rows, pass.tokens, input.document_starts);
  for (int32_t& position : pass.position_values) position += static_cast<int32_t>(first);
  pass.positions = pass.position_values;
  pass.ids.stage(options.device);
  pass.positions.stage(options.device);
  pass.tiles = row_tiles(pass.rows, pass.tokens, attention.kind, attention.group, options.row_tile);
  rope.reserve(row_tokens);

  LayerContext& c = pass.context;
  const double drop = dropout == Dropout::on && options.tuning.mode == TuningMode::lora ? options.tuning.lora.drop_probability : 0.0;
  c = {.rows = pass.rows,
       .tokens = pass.tokens,
       .tensors = tensors,
       .tiles = &pass.tiles,
       .rope = &rope,
       .positions = &pass.positions,
       .sequence = pass.sequence ? &*pass.sequence : nullptr};
  c.layout = {.kind = attention.kind,
              .tokens = row_tokens,
              .group = attention.group,
              .document_starts = input.document_starts,
              .q_begin = first,
              .k_begin = first};
  if (!input.document_starts.empty())
    c.layout.document_bounds = upload(std::span<const int32_t>(document_bounds(pass.tokens, input.document_starts)), options.device);
  c.merge = merge_for(pass.rows * row_tokens, drop);  // the same choice for every number of ranks
  c.dropout = {.drop_probability = drop, .seed = options.seed, .step = input.step, .tokens = row_tokens, .global_rows = input.global_rows};
  if (pass.sequence) c.dropout.part_begin = first, c.dropout.part_tokens = pass.tokens;
  if (input.global_rows.empty())
    for (int64_t row = 0; row < pass.rows; ++row) c.dropout.global_rows.push_back(static_cast<uint32_t>(row));
  pass.shape = shape_of(pass);
  c.block = pass.shape.block;
}

Merge LlamaModel::State::merge_for(int64_t rows, double drop_probability) const {
  return merges_adapters(options.compute == ComputeType::fp32 ? 4 : 2, drop_probability > 0, rows) ? Merge::yes : Merge::no;
}

LayerContext LlamaModel::State::context_of(const Pass& pass, int64_t layer) const {
  LayerContext c = pass.context;
  c.layer = layer;
  c.layout.num_plain = num_plain_heads(attention.pattern, config.num_heads, layer);
  c.dropout.layer = static_cast<uint16_t>(layer);
  return c;
}

LayerShape LlamaModel::State::base_shape(int64_t rows, int64_t tokens) const {
  LayerShape s = layer_shape(config, options.tuning);
  s.rows = rows;
  s.tokens = s.row_tile = tokens;
  s.element_bytes = static_cast<int64_t>(tensors.dtype().itemsize());
  s.dropout = false;
  s.on_device = !options.device.is_cpu();
  return s;
}

LayerShape LlamaModel::State::shape_of(const Pass& pass) const {
  LayerShape s = base_shape(pass.rows, pass.tokens);
  s.row_tile = most_tile_rows(pass.tiles);
  const AttentionLayout& layout = pass.context.layout;
  s.block =
      stream_block(layout.kind, layout.group, pass.tokens, !layout.document_starts.empty(), pass.sequence.has_value(), options.row_tile);
  s.carry_heads = most_carry_heads(config, attention.pattern);
  s.part_half = pass.sequence ? pass.sequence->half_group : 0;
  s.merged = pass.context.merge == Merge::yes;
  s.dropout = pass.context.dropout.drop_probability > 0;
  return s;
}

LayerPolicy LlamaModel::State::policy_of(const Pass& pass, int64_t layer) const {
  LayerPolicy policy = policies[static_cast<size_t>(layer)];
  policy.streamed = policy.streamed && pass.shape.block > 0;
  return policy;
}

}  // namespace longlora
