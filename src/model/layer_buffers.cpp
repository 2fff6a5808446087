// Which buffer an activation lives in: the part of the layer that a policy decides.
#include "model/layer.h"

namespace longlora {

static_assert(Arena::kAlignment == kArenaAlignment);  // the planner's

LayerWorkspace::LayerWorkspace(Arena& arena, const WorkspaceBytes& bytes) : scope(arena, Arena::End::top) {
  const std::pair<Buffer*, int64_t> places[] = {{&norm, bytes.norm},
                                                {&d_norm, bytes.d_norm},
                                                {&mlp, bytes.mlp},
                                                {&mlp_product, bytes.mlp_product},
                                                {&h, bytes.h},
                                                {&gate_up, bytes.gate_up},
                                                {&qkv, bytes.qkv},
                                                {&o, bytes.o},
                                                {&lse, bytes.lse},
                                                {&d_o, bytes.d_o},
                                                {&d_kv, bytes.d_kv},
                                                {&delta, bytes.delta},
                                                {&carry, bytes.carry},
                                                {&merged_qkv, bytes.merged_qkv},
                                                {&merged_o, bytes.merged_o},
                                                {&merged_gate_up, bytes.merged_gate_up},
                                                {&merged_down, bytes.merged_down},
                                                {&halo, bytes.halo},
                                                {&halo_sums, bytes.halo_sums},
                                                {&halo_out, bytes.halo_out},
                                                {&halo_in, bytes.halo_in},
                                                {&linear.low_rank, bytes.low_rank},
                                                {&linear.d_low_rank, bytes.d_low_rank},
                                                {&linear.dropped, bytes.dropped},
                                                {&linear.product, bytes.product}};
  for (const auto& [buffer, size] : places) *buffer = Buffer(size > 0 ? arena.take(Arena::End::top, size) : at::Tensor());
}

void Layer::keep(const LayerContext& c, const LayerPolicy& policy, Arena& arena, KeptActivations& kept) const {
  const int64_t rows = c.rows * c.tokens;
  const auto take = [&](at::IntArrayRef sizes, const at::TensorOptions& options) { return arena.take(Arena::End::bottom, sizes, options); };
  if (policy.keep == KeepPolicy::checkpoint) return;
  kept.o_NQ = take({rows, num_heads_ * head_dim_}, c.tensors);
  kept.lse_BHT = take({c.rows, num_heads_, c.tokens}, c.tensors.dtype(at::kFloat));
  if (policy.keep == KeepPolicy::save_attention) return;
  kept.qkv_NE = take({rows, qkv_width_}, c.tensors);
  kept.h_NC = take({rows, hidden_}, c.tensors);
  kept.gate_up_NG = take({rows, 2 * feed_forward_}, c.tensors);
}

LayerActivations Layer::open(const LayerContext& c, const LayerPolicy& policy, LayerPass pass, const KeptActivations& kept) const {
  LayerActivations a{kept, policy, {}, {}, {}, nullptr};
  if (!policy.streamed) add_workspace(c, pass, a);
  return a;
}

void Layer::add_workspace(const LayerContext& c, LayerPass pass, LayerActivations& a) const {
  const int64_t rows = c.rows * c.tokens, query_width = num_heads_ * head_dim_;
  const at::TensorOptions fp32 = c.tensors.dtype(at::kFloat);
  if (!a.qkv_NE.defined()) a.qkv_NE = c.work->qkv.view({rows, qkv_width_}, c.tensors);
  if (!a.lse_BHT.defined()) a.lse_BHT = c.work->lse.view({c.rows, num_heads_, c.tokens}, fp32);
  if (!a.o_NQ.defined()) {
    const bool over_q = pass == LayerPass::forward;  // where nobody reads q again
    a.o_NQ = over_q ? a.qkv_NE.narrow(1, 0, query_width) : c.work->o.view({rows, query_width}, c.tensors);
  }
  if (pass == LayerPass::forward) return;
  a.d_o_NQ = c.work->d_o.view({rows, query_width}, c.tensors);
  a.d_kv_NX = c.work->d_kv.view({rows, 2 * num_kv_heads_ * head_dim_}, c.tensors);
  a.delta_BHT = c.work->delta.view({c.rows, num_heads_, c.tokens}, fp32);
}

at::Tensor Layer::heads(const at::Tensor& packed, int64_t rows, int64_t tokens, int64_t first, int64_t count) const {
  const int64_t stride = packed.stride(0);
  return packed.as_strided({rows, tokens, count, head_dim_}, {tokens * stride, stride, head_dim_, 1},
                           packed.storage_offset() + first * head_dim_);
}

at::Tensor Layer::tile_buffer(Buffer& buffer, const LayerContext& c, RowTile tile, int64_t width) const {
  return buffer.view({tile.rows(), width}, c.tensors);
}

}  // namespace longlora
