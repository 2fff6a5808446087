// The passes of a model over its layers: forward that keeps, backward, and forward that keeps nothing.
#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/ops/accelerator.h"
#include "longlora/ops/embedding.h"
#include "model/state.h"

namespace longlora {
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

void LlamaModel::State::drop_activations() {
  offloaded.end_return();
  kept.clear();
  kept_begin.clear();
  hidden_NC = at::Tensor();
  is_between = false;
  for (const Arena::End end : {Arena::End::bottom, Arena::End::top}) arena.give_back(end, 0);
}

void LlamaModel::State::clear_activations() {
  drop_activations();
  arena.settle();
}

at::Tensor LlamaModel::State::take_hidden(const Pass& pass) {
  return arena.take(Arena::End::bottom, {pass.rows * pass.tokens, config.hidden_size}, tensors);
}

/// Offloaded layers have it in the hidden state, where their output comes as well.
at::Tensor LlamaModel::State::place_of_input(const Pass& pass, int64_t l) {
  if (l == config.num_layers) return hidden_NC;
  kept_begin.push_back(arena.used(Arena::End::bottom));
  if (policies[static_cast<size_t>(l)].offloaded) return hidden_NC;
  return kept[static_cast<size_t>(l)].x_NC = take_hidden(pass);
}

/// Returns where the next layer finds its input.
at::Tensor LlamaModel::State::forward_layer(const Pass& pass, int64_t l, const at::Tensor& x_NC) {
  LayerContext c = context_of(pass, l);
  const LayerPolicy policy = policy_of(pass, l);
  const Layer& layer = parameters.layers[static_cast<size_t>(l)];
  layer.keep(c, policy, arena, kept[static_cast<size_t>(l)]);
  at::Tensor next_NC = place_of_input(pass, l + 1), y_NC = policy.offloaded ? x_NC : next_NC;
  LayerWorkspace work(arena, workspace_bytes(pass.shape, policy, LayerPass::forward));
  c.work = &work;
  LayerActivations a = layer.open(c, policy, LayerPass::forward, kept[static_cast<size_t>(l)]);
  a.x_NC = x_NC;
  if (policy.offloaded) a.offloaded = &offloaded;
  const LayerWeights weights = store->acquire(l);
  store->prefetch(l + 1);
  layer.forward(weights, c, a, y_NC);
  store->release(l);
  if (y_NC.data_ptr() != next_NC.data_ptr()) next_NC.copy_(y_NC);
  return next_NC;
}

void LlamaModel::State::backward_layer(const Pass& pass, int64_t l, at::Tensor& d_NC, Layer::WantInput want) {
  LayerContext c = context_of(pass, l);
  const LayerPolicy policy = policy_of(pass, l);
  const Layer& layer = parameters.layers[static_cast<size_t>(l)];
  LayerWorkspace work(arena, workspace_bytes(pass.shape, policy, LayerPass::backward));
  c.work = &work;
  LayerActivations a = layer.open(c, policy, LayerPass::backward, kept[static_cast<size_t>(l)]);
  if (policy.offloaded) a.offloaded = &offloaded;
  const LayerWeights weights = store->acquire(l);
  store->prefetch(l - 1);
  layer.backward(weights, c, a, d_NC, want);
  store->release(l);
  kept[static_cast<size_t>(l)] = {};
  arena.give_back(Arena::End::bottom, kept_begin[static_cast<size_t>(l)]);
}

at::Tensor LlamaModel::forward(const ModelInput& input) {
  const accelerator::Range range("forward");
  State& s = *state_;
  Pass pass;
  s.open(input, State::Dropout::on, pass);
  s.clear_activations();
  s.kept.resize(static_cast<size_t>(s.config.num_layers));
  s.hidden_NC = s.take_hidden(pass);
  std::vector<bool> offloaded;
  for (const LayerPolicy& policy : s.policies) offloaded.push_back(policy.offloaded);
  s.offloaded.begin(offloaded, pass.rows * pass.tokens, s.config.hidden_size, s.tensors);
  at::Tensor x_NC = s.place_of_input(pass, 0);
  embedding_forward(s.parameters.embedding->weight, pass.ids, x_NC);
  for (int64_t l = 0; l < s.config.num_layers; ++l) x_NC = s.forward_layer(pass, l, x_NC);
  s.is_between = true;
  return x_NC.view({pass.rows, pass.tokens, s.config.hidden_size});
}

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
  for (int64_t l = s.config.num_layers - 1; l >= 0; --l)
    s.backward_layer(pass, l, d_NC, l > 0 || embedding_trains ? Layer::WantInput::yes : Layer::WantInput::no);
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
  at::Tensor x_NC = take_hidden(pass);
  embedding_forward(parameters.embedding->weight, pass.ids, x_NC);
  for (int64_t l = 0; l < config.num_layers; ++l) run_layer(pass, l, x_NC);
  return x_NC;
}

}  // namespace longlora
