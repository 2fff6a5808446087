#include "longlora/plan/layer_memory.h"

#include <algorithm>
#include <array>

#include "longlora/config/run_plan.h"
#include "longlora/kernels/s2_layout.h"

namespace longlora {
namespace {

constexpr int64_t kFloat = 4;

template <class Bytes, class... Members>
int64_t sum_of(const Bytes& b, Members... members) {
  return (aligned(b.*members) + ...);
}

int64_t heads_width(const LayerShape& s) { return s.heads * s.head_dim; }
int64_t kv_width(const LayerShape& s) { return s.kv_heads * s.head_dim; }
std::array<const LinearShape*, 4> linears(const LayerShape& s) { return {&s.qkv, &s.o, &s.gate_up, &s.down}; }

template <class F>
int64_t most(const LayerShape& s, F&& bytes_of) {
  int64_t result = 0;
  for (const LinearShape* linear : linears(s)) result = std::max(result, bytes_of(*linear));
  return result;
}

bool has_adapters(const LinearShape& l) { return l.parts > 0; }

/// Products that are added to fp32 gradients: fp32 adds in place, bf16 goes through a buffer; B's gradient is formed transposed.
int64_t gradient_product_bytes(const LayerShape& s, const LinearShape& l) {
  const int64_t gradient = s.on_device ? kFloat : s.element_bytes;
  int64_t elements = has_adapters(l) ? l.rank * l.widest_part : 0;
  if (s.element_bytes < kFloat) {
    if (l.trained) elements = std::max(elements, l.out * l.in);
    if (has_adapters(l)) elements = std::max(elements, (s.dropout ? 1 : l.parts) * l.rank * l.in);
  }
  return elements * gradient;
}

void add_linear_scratch(const LayerShape& s, LayerPass pass, WorkspaceBytes& w) {
  const int64_t e = s.element_bytes;
  const bool backward = pass == LayerPass::backward;
  const int64_t low_rank = most(s, [&](const LinearShape& l) { return s.row_tile * l.parts * l.rank * e; });
  if (backward || !s.merged) w.low_rank = low_rank;
  if (backward) w.d_low_rank = low_rank;
  if (backward) w.product = most(s, [&](const LinearShape& l) { return gradient_product_bytes(s, l); });
  if (s.dropout) w.dropped = most(s, [&](const LinearShape& l) { return has_adapters(l) ? s.row_tile * l.in * e : 0; });
  if (!s.merged) return;
  const auto matrix = [&](const LinearShape& l) { return has_adapters(l) ? l.in * l.out * e : 0; };
  w.merged_qkv = matrix(s.qkv);
  w.merged_o = matrix(s.o);
  w.merged_gate_up = matrix(s.gate_up);
  w.merged_down = matrix(s.down);
}

void add_halos(const LayerShape& s, LayerPass pass, WorkspaceBytes& w) {
  const int64_t half = s.rows * s.part_half * 2 * kv_width(s);  // K and V
  w.halo = 2 * half * s.element_bytes;
  w.halo_out = w.halo_in = half * kFloat;
  if (pass == LayerPass::backward) w.halo_sums = half * kFloat;
}

bool needs_input(const LinearShape& l) { return has_adapters(l) || l.trained; }

}  // namespace

std::string name_of(const LayerPolicy& p) {
  std::string name = p.keep == KeepPolicy::save_all ? "save_all" : p.keep == KeepPolicy::save_attention ? "save_attention" : "checkpoint";
  if (p.offloaded) name += "_offload";
  return p.streamed ? name + ", streamed" : name;
}

LayerShape layer_shape(const ModelConfig& m, const TrainConfig::Tuning& tuning) {
  const bool lora = tuning.mode == TuningMode::lora;
  const auto adapt = [&](LinearShape& l, LoraTarget target, int64_t out) {
    l.out += out;
    l.trained = tuning.mode == TuningMode::full;
    if (!lora || std::ranges::find(tuning.lora.targets, target) == tuning.lora.targets.end()) return;
    ++l.parts;
    l.rank = tuning.lora.rank;
    l.widest_part = std::max(l.widest_part, out);
  };
  LayerShape s{.hidden = m.hidden_size,
               .ffn = m.intermediate_size,
               .heads = m.num_heads,
               .kv_heads = m.num_kv_heads,
               .head_dim = m.head_dim,
               .qkv = {.in = m.hidden_size},
               .o = {.in = m.q_width()},
               .gate_up = {.in = m.hidden_size},
               .down = {.in = m.intermediate_size}};
  adapt(s.qkv, LoraTarget::q_proj, m.q_width());
  adapt(s.qkv, LoraTarget::k_proj, m.kv_width());
  adapt(s.qkv, LoraTarget::v_proj, m.kv_width());
  adapt(s.o, LoraTarget::o_proj, m.hidden_size);
  adapt(s.gate_up, LoraTarget::gate_proj, m.intermediate_size);
  adapt(s.gate_up, LoraTarget::up_proj, m.intermediate_size);
  adapt(s.down, LoraTarget::down_proj, m.hidden_size);
  s.dropout = lora && tuning.lora.drop_probability > 0;
  return s;
}

int64_t stream_block(AttentionKind kind, int64_t group, int64_t tokens, bool documents, bool shared_rows, int64_t max_row_tile) {
  const int64_t block = group / 2;
  const bool can = kind == AttentionKind::s2 && !documents && !shared_rows && block >= max_row_tile && tokens > block;
  return can ? block : 0;
}

int64_t most_carry_heads(const ModelConfig& model, AttentionPattern pattern) {
  int64_t most = 0;
  for (int64_t layer = 0; layer < model.num_layers; ++layer)
    for (const Shift shift : {Shift::none, Shift::half_group}) {
      const HeadRange range = kv_heads_of(shift, model.num_heads, model.num_kv_heads, num_plain_heads(pattern, model.num_heads, layer));
      most = std::max(most, range.end - range.begin);
    }
  return most;
}

int64_t KeptBytes::total() const {
  using K = KeptBytes;
  return sum_of(*this, &K::x, &K::qkv, &K::o, &K::lse, &K::h, &K::gate_up);
}

KeptBytes kept_bytes(const LayerShape& s, const LayerPolicy& p) {
  const int64_t e = s.element_bytes, n = s.num_tokens();
  KeptBytes k;
  if (!p.offloaded) k.x = n * s.hidden * e;
  if (p.keep == KeepPolicy::checkpoint) return k;
  k.o = n * heads_width(s) * e;
  k.lse = n * s.heads * kFloat;
  if (p.keep == KeepPolicy::save_attention) return k;
  k.qkv = n * (heads_width(s) + 2 * kv_width(s)) * e;
  k.h = n * s.hidden * e;
  k.gate_up = n * 2 * s.ffn * e;
  return k;
}

int64_t WorkspaceBytes::total() const {
  using W = WorkspaceBytes;
  return sum_of(*this, &W::norm, &W::d_norm, &W::mlp, &W::mlp_product, &W::h, &W::gate_up, &W::qkv, &W::o, &W::lse, &W::d_o, &W::d_kv,
                &W::delta, &W::carry, &W::merged_qkv, &W::merged_o, &W::merged_gate_up, &W::merged_down, &W::low_rank, &W::d_low_rank,
                &W::dropped, &W::product, &W::halo, &W::halo_sums, &W::halo_out, &W::halo_in);
}

WorkspaceBytes workspace_bytes(const LayerShape& s, const LayerPolicy& p, LayerPass pass) {
  const int64_t e = s.element_bytes, r = s.row_tile, n = s.stream_tokens(p), q = heads_width(s), kv = kv_width(s);
  const bool all = p.keep == KeepPolicy::save_all, backward = pass == LayerPass::backward;
  WorkspaceBytes w{.norm = r * s.hidden * e, .mlp = r * s.ffn * e};
  if (!all) {
    w.gate_up = r * 2 * s.ffn * e;
    w.qkv = (p.streamed ? 2 : 1) * n * (q + 2 * kv) * e;
  }
  if (p.keep == KeepPolicy::checkpoint) w.lse = n * s.heads * kFloat;
  if (backward) {
    w.d_norm = r * s.hidden * e;
    if (!all) w.h = r * s.hidden * e;
    if (needs_input(s.down)) w.mlp_product = r * s.ffn * e;
    if (p.keep == KeepPolicy::checkpoint) w.o = n * q * e;  // forward writes O over q
    w.d_o = n * q * e;
    w.d_kv = n * 2 * kv * e;
    w.delta = n * s.heads * kFloat;
    if (p.streamed) w.carry = 2 * n * s.carry_heads * s.head_dim * kFloat;
  }
  add_linear_scratch(s, pass, w);
  if (s.part_half > 0) add_halos(s, pass, w);
  return w;
}

int64_t LossBytes::total() const {
  using B = LossBytes;
  return sum_of(*this, &B::hidden, &B::norm, &B::logits, &B::product, &B::nll);
}

LossBytes loss_bytes(const LayerShape& s, const LossShape& loss) {
  const int64_t e = s.element_bytes, wide = s.on_device ? kFloat : e, rows = std::min(loss.chunk_rows, s.num_tokens());
  LossBytes b{.hidden = rows * s.hidden * e, .norm = rows * s.hidden * e, .logits = rows * loss.vocabulary * wide};
  if (loss.head_trained && e < kFloat) b.product = loss.vocabulary * s.hidden * wide;
  b.nll = s.num_tokens() * kFloat;
  return b;
}

StagingShape staging_shape(const LayerShape& s, std::span<const LayerPolicy> policies) {
  StagingShape staging;
  if (!s.on_device) return staging;
  for (const LayerPolicy& p : policies) {
    if (!p.offloaded) continue;
    staging.slots = std::max<int64_t>(staging.slots, p.streamed ? 3 : 2);  // in use (streamed: and the block before), and on its way
    staging.slot_bytes = std::max(staging.slot_bytes, s.stream_tokens(p) * s.hidden * s.element_bytes);
  }
  return staging;
}

ActivationPeak training_peak(const LayerShape& s, std::span<const LayerPolicy> policies, const LossShape& loss) {
  using Phase = ActivationPeak::Phase;
  const auto layers = static_cast<int64_t>(policies.size());
  ActivationPeak peak, now{.hidden = aligned(s.num_tokens() * s.hidden * s.element_bytes)};
  const auto look = [&](Phase phase, int64_t layer, int64_t workspace, int64_t staging) {
    now.phase = phase, now.layer = layer, now.workspace = workspace, now.staging = staging;
    if (now.total() > peak.total()) peak = now;
  };
  const auto policy = [&](int64_t l) { return policies[static_cast<size_t>(l)]; };
  for (int64_t l = 0; l < layers; ++l) {
    now.kept += kept_bytes(s, policy(l)).total();
    const int64_t next_x = l + 1 < layers ? aligned(kept_bytes(s, policy(l + 1)).x) : 0;  // where the layer's output goes
    look(Phase::forward, l, next_x + workspace_bytes(s, policy(l), LayerPass::forward).total(), 0);
  }
  look(Phase::loss, layers, loss_bytes(s, loss).total(), 0);
  const int64_t staging = staging_shape(s, policies).total();
  for (int64_t l = layers - 1; l >= 0; --l) {
    look(Phase::backward, l, workspace_bytes(s, policy(l), LayerPass::backward).total(), staging);
    now.kept -= kept_bytes(s, policy(l)).total();
  }
  return peak;
}

ActivationPeak evaluation_peak(const LayerShape& s, int64_t layers, const LossShape& loss) {
  const int64_t hidden = aligned(s.num_tokens() * s.hidden * s.element_bytes);
  const ActivationPeak layer{.hidden = hidden, .workspace = workspace_bytes(s, {}, LayerPass::forward).total()};
  const ActivationPeak last{
      .phase = ActivationPeak::Phase::loss, .layer = layers, .hidden = hidden, .workspace = loss_bytes(s, loss).total()};
  return layer.total() > last.total() ? layer : last;
}

int64_t offloaded_bytes(const LayerShape& s, std::span<const LayerPolicy> policies) {
  const auto count = std::ranges::count_if(policies, [](const LayerPolicy& p) { return p.offloaded; });
  return count * aligned(s.num_tokens() * s.hidden * s.element_bytes);
}

}  // namespace longlora
