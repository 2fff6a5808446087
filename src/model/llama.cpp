#include "longlora/model/llama.h"

#include <algorithm>

#include "longlora/config/run_plan.h"
#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/embedding.h"
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
  state_->clear_activations();
  state_->arena.reserve(activation_bytes);
  state_->offloaded.reserve(host_bytes);
}

void LlamaModel::release() {
  state_->clear_activations();
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
  constexpr int64_t kMergeRows = 128;
  return options.compute == ComputeType::fp32 && drop_probability == 0 && rows >= kMergeRows ? Merge::yes : Merge::no;
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
  s.row_tile = 0;
  for (const RowTile& tile : pass.tiles) s.row_tile = std::max(s.row_tile, tile.rows());
  const AttentionLayout& layout = pass.context.layout;
  s.block =
      stream_block(layout.kind, layout.group, pass.tokens, !layout.document_starts.empty(), pass.sequence.has_value(), options.row_tile);
  for (int64_t l = 0; l < config.num_layers; ++l)
    s.carry_heads = std::max(
        s.carry_heads, most_carry_heads(config.num_heads, config.num_kv_heads, num_plain_heads(attention.pattern, config.num_heads, l)));
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

void LlamaModel::State::clear_activations() {
  kept.clear();
  kept_begin.clear();
  is_between = false;
  for (const Arena::End end : {Arena::End::bottom, Arena::End::top}) arena.give_back(end, 0);
  arena.settle();
}

at::Tensor LlamaModel::forward(const ModelInput& input) {
  const accelerator::Range range("forward");
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::on, pass);
  s.clear_activations();
  const int64_t num_layers = s.config.num_layers;
  s.kept.resize(static_cast<size_t>(num_layers));
  const std::vector<int64_t> sizes = {pass.rows * pass.tokens, s.config.hidden_size};
  at::Tensor hidden_NC = s.arena.take(Arena::End::bottom, sizes, s.tensors);
  std::vector<bool> offloaded;
  for (const LayerPolicy& policy : s.policies) offloaded.push_back(policy.offloaded);
  s.offloaded.begin(offloaded, sizes[0], sizes[1], s.tensors);
  const auto is_offloaded = [&](int64_t l) { return offloaded[static_cast<size_t>(l)]; };
  const auto x_of = [&](int64_t l) {  // where layer l finds its input
    if (l < num_layers) s.kept_begin.push_back(s.arena.used(Arena::End::bottom));
    if (l == num_layers || is_offloaded(l)) return hidden_NC;
    return s.kept[static_cast<size_t>(l)].x_NC = s.arena.take(Arena::End::bottom, sizes, s.tensors);
  };
  at::Tensor x_NC = x_of(0);
  embedding_forward(s.parameters.embedding->weight, pass.ids, x_NC);
  for (int64_t l = 0; l < num_layers; ++l) {
    LayerContext c = s.context_of(pass, l);
    const LayerPolicy policy = s.policy_of(pass, l);
    const Layer& layer = s.parameters.layers[static_cast<size_t>(l)];
    KeptActivations& kept = s.kept[static_cast<size_t>(l)];
    layer.keep(c, policy, s.arena, kept);
    at::Tensor next_NC = x_of(l + 1), y_NC = is_offloaded(l) ? x_NC : next_NC;
    LayerWorkspace work(s.arena, workspace_bytes(pass.shape, policy, LayerPass::forward));
    c.work = &work;
    LayerActivations a = layer.open(c, policy, LayerPass::forward, kept);
    a.x_NC = x_NC;
    if (is_offloaded(l)) a.offloaded = &s.offloaded;
    const LayerWeights weights = s.store->acquire(l);
    s.store->prefetch(l + 1);
    layer.forward(weights, c, a, y_NC);
    s.store->release(l);
    if (y_NC.data_ptr() != next_NC.data_ptr()) next_NC.copy_(y_NC);
    x_NC = next_NC;
  }
  s.is_between = true;
  return hidden_NC.view({pass.rows, pass.tokens, s.config.hidden_size});
}

namespace {

/// Inputs in the order in which the backward pass reads them.
std::vector<OffloadedInputs::Piece> pieces_of(const LayerShape& shape, const std::vector<LayerPolicy>& policies) {
  std::vector<OffloadedInputs::Piece> pieces;
  for (auto l = static_cast<int64_t>(policies.size()) - 1; l >= 0; --l) {
    const LayerPolicy& policy = policies[static_cast<size_t>(l)];
    if (!policy.offloaded) continue;
    if (!policy.streamed) {
      pieces.push_back({l, 0, shape.num_tokens()});
      continue;
    }
    for (int64_t row = shape.rows - 1; row >= 0; --row)
      for (int64_t begin = (shape.tokens - 1) / shape.block * shape.block; begin >= 0; begin -= shape.block)
        pieces.push_back({l, row * shape.tokens + begin, std::min(shape.block, shape.tokens - begin)});
  }
  return pieces;
}

}  // namespace

void LlamaModel::backward(at::Tensor d_hidden_BTC, const ModelInput& input) {
  const accelerator::Range range("backward");
  State& s = *state_;
  LONGLORA_INVARIANT(s.is_between);
  Pass pass;
  s.open(input, State::Dropout::on, pass);
  at::Tensor d_NC = d_hidden_BTC.view({pass.rows * pass.tokens, s.config.hidden_size});
  const bool embedding_trains = s.parameters.embedding->trainable;
  std::vector<LayerPolicy> policies;
  for (int64_t l = 0; l < s.config.num_layers; ++l) policies.push_back(s.policy_of(pass, l));
  s.offloaded.begin_return(pieces_of(pass.shape, policies), staging_shape(pass.shape, policies).slots, s.arena);
  for (int64_t l = s.config.num_layers - 1; l >= 0; --l) {
    LayerContext c = s.context_of(pass, l);
    const LayerPolicy& policy = policies[static_cast<size_t>(l)];
    const Layer& layer = s.parameters.layers[static_cast<size_t>(l)];
    LayerWorkspace work(s.arena, workspace_bytes(pass.shape, policy, LayerPass::backward));
    c.work = &work;
    LayerActivations a = layer.open(c, policy, LayerPass::backward, s.kept[static_cast<size_t>(l)]);
    if (policy.offloaded) a.offloaded = &s.offloaded;
    const LayerWeights weights = s.store->acquire(l);
    s.store->prefetch(l - 1);
    layer.backward(weights, c, a, d_NC, l > 0 || embedding_trains ? Layer::WantInput::yes : Layer::WantInput::no);
    s.store->release(l);
    s.kept[static_cast<size_t>(l)] = {};
    s.arena.give_back(Arena::End::bottom, s.kept_begin[static_cast<size_t>(l)]);
  }
  if (embedding_trains) embedding_backward(pass.ids, d_NC, s.parameters.embedding->grad);
  s.is_between = false;
}

/// One layer in place.
void LlamaModel::State::run_layer(const Pass& pass, int64_t l, const at::Tensor& x_NC) {
  LayerContext c = context_of(pass, l);
  const Layer& layer = parameters.layers[static_cast<size_t>(l)];
  LayerWorkspace work(arena, workspace_bytes(pass.shape, {}, LayerPass::forward));
  c.work = &work;
  LayerActivations a = layer.open(c, {}, LayerPass::forward, {});
  a.x_NC = x_NC;
  at::Tensor y_NC = x_NC;
  const LayerWeights weights = store->acquire(l);
  store->prefetch(l + 1);
  layer.forward(weights, c, a, y_NC);
  store->release(l);
}

at::Tensor LlamaModel::State::run_without_gradients(const Pass& pass) {
  clear_activations();
  at::Tensor x_NC = arena.take(Arena::End::bottom, {pass.rows * pass.tokens, config.hidden_size}, tensors);
  embedding_forward(parameters.embedding->weight, pass.ids, x_NC);
  for (int64_t l = 0; l < config.num_layers; ++l) run_layer(pass, l, x_NC);
  return x_NC;
}

}  // namespace longlora
