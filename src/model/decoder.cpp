// Generation: keys and values of all past tokens; new tokens run through all layers a row tile at a time.
#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "longlora/core/error.h"
#include "longlora/ops/embedding.h"
#include "model/state.h"

namespace longlora {

struct Decoder::State {
  struct Cache {
    at::Tensor k_BTKD, v_BTKD;
  };
  LlamaModel::State* model = nullptr;
  int64_t max_tokens = 0, length = 0;
  std::vector<Cache> layers;

  LayerContext context(int64_t count, const IntList& positions) const;
  void run_layer(int64_t layer, LayerContext, at::Tensor& x_NC);
  at::Tensor append_tile(std::span<const int32_t> ids);
};

LayerContext Decoder::State::context(int64_t count, const IntList& positions) const {
  LayerContext c{.rows = 1,
                 .tokens = count,
                 .tensors = model->tensors,
                 .rope = &model->rope,
                 .positions = &positions,
                 .merge = model->merge_for(count, 0)};
  c.layout = {.kind = AttentionKind::full, .tokens = length + count, .num_plain = model->config.num_heads, .q_begin = length};
  return c;
}

void Decoder::State::run_layer(int64_t number, LayerContext c, at::Tensor& x_NC) {
  const Layer& layer = model->parameters.layers[static_cast<size_t>(number)];
  Cache& cache = layers[static_cast<size_t>(number)];
  LayerShape shape = model->base_shape(1, c.tokens);
  shape.merged = c.merge == Merge::yes;
  LayerWorkspace work(model->arena, workspace_bytes(shape, {}, LayerPass::forward));
  c.work = &work;
  LayerActivations a = layer.open(c, {}, LayerPass::forward, {});
  const RowTile tile{0, c.tokens};
  const LayerWeights weights = model->store->acquire(number);
  model->store->prefetch(number + 1);
  const Layer::Prepared w = layer.prepare(weights, c);
  layer.project_qkv(w, c, tile, x_NC, a.qkv_NE);
  cache.k_BTKD.narrow(1, length, c.tokens).copy_(layer.key(a.qkv_NE, 1, c.tokens));
  cache.v_BTKD.narrow(1, length, c.tokens).copy_(layer.value(a.qkv_NE, 1, c.tokens));
  at::Tensor o_BTHD = layer.query(a.qkv_NE, 1, c.tokens);  // o over q
  s2_attention_forward(c.layout, o_BTHD, cache.k_BTKD.narrow(1, 0, length + c.tokens), cache.v_BTKD.narrow(1, 0, length + c.tokens), o_BTHD,
                       a.lse_BHT);
  at::Tensor gate_up_NG = layer.gate_up_buffer(c, tile);
  layer.add_attention(w, c, tile, x_NC, a.o_NQ, x_NC);
  layer.expand(w, c, tile, x_NC, gate_up_NG);
  layer.contract(w, c, tile, x_NC, gate_up_NG, x_NC);
  model->store->release(number);
}

at::Tensor Decoder::State::append_tile(std::span<const int32_t> ids) {
  const auto count = static_cast<int64_t>(ids.size());
  std::vector<int32_t> positions;
  for (int64_t i = 0; i < count; ++i) positions.push_back(static_cast<int32_t>(length + i));
  model->clear_activations();
  at::Tensor x_NC = model->arena.take(Arena::End::bottom, {count, model->config.hidden_size}, model->tensors);
  embedding_forward(model->parameters.embedding->weight, ids, x_NC);
  IntList staged = positions;
  staged.stage(model->options.device);
  const LayerContext c = context(count, staged);
  for (int64_t l = 0; l < model->config.num_layers; ++l) run_layer(l, c, x_NC);
  length += count;
  return x_NC;
}

Decoder::Decoder(LlamaModel& model, int64_t max_tokens) : state_(std::make_unique<State>()) {
  LlamaModel::State& m = *model.state_;
  state_->model = &m;
  state_->max_tokens = max_tokens;
  const auto cache = [&] { return at::empty({1, max_tokens, m.config.num_kv_heads, m.config.head_dim}, m.tensors); };
  for (int64_t l = 0; l < m.config.num_layers; ++l) state_->layers.push_back({cache(), cache()});
  m.rope.reserve(max_tokens);
}

Decoder::~Decoder() = default;
int64_t Decoder::length() const { return state_->length; }

at::Tensor Decoder::append(std::span<const int32_t> ids) {
  State& s = *state_;
  LONGLORA_INVARIANT(!ids.empty());
  LONGLORA_CHECK(s.length + static_cast<int64_t>(ids.size()) <= s.max_tokens, usage,
                 fmt::format("{} tokens, room for {}", s.length + static_cast<int64_t>(ids.size()), s.max_tokens), "generation",
                 "ask for fewer tokens");
  at::Tensor hidden_NC;
  const auto tile = static_cast<size_t>(s.model->options.row_tile);
  for (size_t begin = 0; begin < ids.size(); begin += tile)
    hidden_NC = s.append_tile(ids.subspan(begin, std::min(tile, ids.size() - begin)));
  const int64_t last = hidden_NC.size(0) - 1;
  HeadWorkspace work = s.model->head_workspace(1);
  return s.model->logits_of(hidden_NC, std::span<const int64_t>(&last, 1), work)
      .view({-1})
      .to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true);
}

}  // namespace longlora
