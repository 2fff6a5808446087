#include "longlora/model/llama.h"

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

SavedActivations::SavedActivations() : layers(std::make_unique<Layers>()) {}
SavedActivations::~SavedActivations() = default;
SavedActivations& SavedActivations::operator=(SavedActivations&&) noexcept = default;

LlamaModel::State::State(const ModelConfig& c, RopeTable table, const ModelOptions& o)
    : config(c),
      options(o),
      parameters(config, options),
      store(parameters.make_store(config, options)),
      rope(std::move(table)),
      policies(static_cast<size_t>(c.num_layers), KeepPolicy::save_all),
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

void LlamaModel::set_keep_policies(std::vector<KeepPolicy> policies) {
  LONGLORA_INVARIANT(static_cast<int64_t>(policies.size()) == state_->config.num_layers);
  state_->policies = std::move(policies);
}

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
       .work = &work,
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
}

Merge LlamaModel::State::merge_for(int64_t rows, double drop_probability) const {
  constexpr int64_t kMergeRows = 128;
  return options.compute == ComputeType::fp32 && drop_probability == 0 && rows >= kMergeRows ? Merge::yes : Merge::no;
}

LayerContext LlamaModel::State::context_of(const Pass& pass, int64_t layer) const {
  LayerContext c = pass.context;
  c.layout.num_plain = num_plain_heads(attention.pattern, config.num_heads, layer);
  c.dropout.layer = static_cast<uint16_t>(layer);
  return c;
}

at::Tensor LlamaModel::forward(const ModelInput& input, SavedActivations& saved) {
  const accelerator::Range range("forward");
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::on, pass);
  std::vector<LayerBuffers>& kept = saved.layers->layers;
  const int64_t num_layers = s.config.num_layers;
  kept.resize(static_cast<size_t>(num_layers));
  const auto x_of = [&](int64_t layer) {
    Buffer& buffer = layer < num_layers ? kept[static_cast<size_t>(layer)].x : saved.layers->hidden;
    return buffer.view({pass.rows * pass.tokens, s.config.hidden_size}, s.tensors);
  };
  at::Tensor x_NC = x_of(0);
  embedding_forward(s.parameters.embedding->weight, pass.ids, x_NC);
  for (int64_t l = 0; l < num_layers; ++l) {
    const LayerContext c = s.context_of(pass, l);
    const Layer& layer = s.parameters.layers[static_cast<size_t>(l)];
    LayerActivations a = layer.open_forward(c, s.policies[static_cast<size_t>(l)], kept[static_cast<size_t>(l)], x_NC);
    at::Tensor y_NC = x_of(l + 1);
    const LayerWeights weights = s.store->acquire(l);
    s.store->prefetch(l + 1);
    layer.forward(weights, c, a, y_NC);
    s.store->release(l);
    x_NC = y_NC;
  }
  return x_NC.view({pass.rows, pass.tokens, s.config.hidden_size});
}

void LlamaModel::backward(at::Tensor d_hidden_BTC, const ModelInput& input, SavedActivations& saved) {
  const accelerator::Range range("backward");
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::on, pass);
  at::Tensor d_NC = d_hidden_BTC.view({pass.rows * pass.tokens, s.config.hidden_size});
  const bool embedding_trains = s.parameters.embedding->trainable;
  for (int64_t l = s.config.num_layers - 1; l >= 0; --l) {
    const LayerContext c = s.context_of(pass, l);
    const Layer& layer = s.parameters.layers[static_cast<size_t>(l)];
    LayerActivations a = layer.open_backward(c, s.policies[static_cast<size_t>(l)], saved.layers->layers[static_cast<size_t>(l)]);
    const LayerWeights weights = s.store->acquire(l);
    s.store->prefetch(l - 1);
    layer.backward(weights, c, a, d_NC, l > 0 || embedding_trains ? Layer::WantInput::yes : Layer::WantInput::no);
    s.store->release(l);
  }
  if (embedding_trains) embedding_backward(pass.ids, d_NC, s.parameters.embedding->grad);
}

at::Tensor LlamaModel::State::run_without_gradients(const Pass& pass) {
  at::Tensor x_NC = stream.view({pass.rows * pass.tokens, config.hidden_size}, tensors);
  embedding_forward(parameters.embedding->weight, pass.ids, x_NC);
  LayerBuffers nothing;
  for (int64_t l = 0; l < config.num_layers; ++l) {
    const LayerContext c = context_of(pass, l);
    const Layer& layer = parameters.layers[static_cast<size_t>(l)];
    LayerActivations a = layer.open_forward(c, KeepPolicy::checkpoint, nothing, x_NC);
    const LayerWeights weights = store->acquire(l);
    store->prefetch(l + 1);
    layer.forward(weights, c, a, x_NC);  // in place
    store->release(l);
  }
  return x_NC;
}

}  // namespace longlora
