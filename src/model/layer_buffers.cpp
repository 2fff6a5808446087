// Which buffer an activation lives in: the part of the layer that a keep policy decides.
#include "model/layer.h"

namespace longlora {

LayerActivations Layer::open_forward(const LayerContext& c, KeepPolicy policy, LayerBuffers& kept, const at::Tensor& x_NC) const {
  const int64_t rows = c.rows * c.tokens, query_width = num_heads_ * head_dim_;
  const bool all = policy == KeepPolicy::save_all, attention = all || policy == KeepPolicy::save_attention;
  LayerActivations a{.policy = policy, .x_NC = x_NC};
  a.qkv_NE = (all ? kept.qkv : c.work->qkv).view({rows, qkv_width_}, c.tensors);
  a.o_NQ = attention ? kept.o.view({rows, query_width}, c.tensors) : a.qkv_NE.narrow(1, 0, query_width);  // nobody reads q again: o over q
  a.lse_BHT = (attention ? kept.lse : c.work->lse).view({c.rows, num_heads_, c.tokens}, c.tensors.dtype(at::kFloat));
  if (all) a.h_NC = kept.h.view({rows, hidden_}, c.tensors);
  if (all) a.gate_up_NG = kept.gate_up.view({rows, 2 * feed_forward_}, c.tensors);
  return a;
}

LayerActivations Layer::open_backward(const LayerContext& c, KeepPolicy policy, LayerBuffers& kept) const {
  LayerActivations a = open_forward(c, policy, kept, kept.x.view({c.rows * c.tokens, hidden_}, c.tensors));
  if (policy == KeepPolicy::checkpoint) a.o_NQ = c.work->o.view({c.rows * c.tokens, num_heads_ * head_dim_}, c.tensors);  // q is needed
  return a;
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
