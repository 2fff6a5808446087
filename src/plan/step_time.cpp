#include <fmt/format.h>

#include <algorithm>

#include "longlora/config/sequence_parts.h"
#include "longlora/kernels/s2_layout.h"
#include "longlora/plan/halo.h"
#include "longlora/plan/memory_plan.h"
#include "longlora/plan/rates.h"
#include "longlora/plan/weight_parts.h"
#include "plan/shapes.h"

namespace longlora {
namespace {

constexpr double kBackwardAttention = 3.5;  // executed: seven products over the pairs in place of forward's two
constexpr double kCountedAttention = 2.5;   // of them five are counted, so that HFU compares with programs that run five
constexpr double kFloat = 4;                // bytes

double real(int64_t n) { return static_cast<double>(n); }
double matrix(const LinearShape& l) { return real(l.in) * real(l.out); }
double layer_parameters(const LayerShape& s) { return matrix(s.qkv) + matrix(s.o) + matrix(s.gate_up) + matrix(s.down); }

/// Forward, gradient of the input, gradient of what is trained.
double product_flops_per_token(const StepShape& s) {
  double flops = 6 * real(s.layer_lora);
  for (const LinearShape* l : {&s.layer.qkv, &s.layer.o, &s.layer.gate_up, &s.layer.down}) flops += (l->trained ? 6 : 4) * matrix(*l);
  return flops;
}

/// The down projection is not run again: nothing in its own backward needs its output.
double recomputed_products_per_token(const StepShape& s, const LayerPolicy& p) {
  return p.keep == KeepPolicy::save_all ? 0 : 2 * (layer_parameters(s.layer) - matrix(s.layer.down));
}

double head_flops_per_token(const StepShape& s) { return (s.head_trained ? 6 : 4) * real(s.vocabulary) * real(s.layer.hidden); }

/// Of an offloaded input: read on its way out, written on its way back.
double copied_bytes_per_token(const LayerShape& s, const LayerPolicy& p) {
  return p.offloaded && s.on_device ? 2 * real(s.hidden) * real(s.element_bytes) : 0;
}

/// Forward: two norms read and write a row, RoPE turns q and k in place, SwiGLU reads two and writes one.
double forward_elements(const LayerShape& s) {
  const double rotated = real(s.heads + s.kv_heads) * real(s.head_dim);
  return 2 * 2 * real(s.hidden) + 2 * rotated + 3 * real(s.ffn);
}

/// Norm outputs are formed again under every policy, RoPE where q and k were not kept; then the adjoints: SwiGLU reads three and writes
/// two, RoPE turns gradients back, a norm reads x and dy and adds to dx; delta reads O and dO.
double backward_elements(const LayerShape& s, const LayerPolicy& p) {
  const double rotated = real(s.heads + s.kv_heads) * real(s.head_dim), q = real(s.heads) * real(s.head_dim);
  const bool reads_product = s.down.parts > 0 || s.down.trained;
  double elements = 2 * 2 * real(s.hidden) + 5 * real(s.ffn) + 2 * rotated + 2 * 4 * real(s.hidden) + 2 * q;
  if (reads_product) elements += 3 * real(s.ffn);
  if (p.keep != KeepPolicy::save_all) elements += 2 * rotated;
  return elements;
}

/// fp32 sums of dK and dV that a block leaves to the next: written once, read once.
double carry_bytes_per_token(const LayerShape& s, const LayerPolicy& p) {
  return p.streamed ? 2 * 2 * kFloat * real(s.carry_heads) * real(s.head_dim) : 0;
}

struct Pass {
  double products = 0, attention = 0, elementwise = 0;
  double total() const { return products + attention + elementwise; }
};

Pass forward_pass(const StepShape& s, const Rates& r) {
  const double n = real(s.layer.num_tokens());
  return {n * 2 * (layer_parameters(s.layer) + real(s.layer_lora)) / r.products, s.attention_flops / r.attention,
          n * forward_elements(s.layer) * real(s.layer.element_bytes) / r.elementwise};
}

Pass backward_pass(const StepShape& s, const LayerPolicy& p, const Rates& r) {
  const double n = real(s.layer.num_tokens()), forward = 2 * (layer_parameters(s.layer) + real(s.layer_lora));
  const double again = p.keep == KeepPolicy::checkpoint ? 1 : 0;
  const double bytes =
      backward_elements(s.layer, p) * real(s.layer.element_bytes) + carry_bytes_per_token(s.layer, p) + copied_bytes_per_token(s.layer, p);
  return {n * (product_flops_per_token(s) - forward + recomputed_products_per_token(s, p)) / r.products,
          (kBackwardAttention + again) * s.attention_flops / r.attention, n * bytes / r.elementwise};
}

/// One way: the input of a layer.
double copy_seconds(const StepShape& s, const LayerPolicy& p, const Rates& r) {
  return p.offloaded ? real(s.layer.num_tokens()) * real(s.layer.hidden) * real(s.layer.element_bytes) / r.link : 0;
}

double exposed(double seconds, double beside) { return std::max(0.0, seconds - beside); }

double attention_flops_per_token(const ModelConfig& m, const TrainConfig& config, const RunPlan& run) {
  const int64_t T = run.sequence_length;
  const bool full = config.attention.kind == AttentionKind::full || run.group <= 0;
  const double plain = full ? real(T) * real(T + 1) / 2 : real(allowed_pairs(T, run.group, Shift::none));
  const bool wraps = config.attention.kind == AttentionKind::s2_wrap;
  const double shifted = full || wraps ? plain : real(allowed_pairs(T, run.group, Shift::half_group));
  const auto pattern = config.attention.pattern.value_or(AttentionPattern::cross_heads);
  double pairs = 0;
  for (int64_t layer = 0; layer < m.num_layers; ++layer) {
    const int64_t num_plain = full ? m.num_heads : num_plain_heads(pattern, m.num_heads, layer);
    pairs += real(num_plain) * plain + real(m.num_heads - num_plain) * shifted;
  }
  return 4 * real(m.head_dim) * pairs / real(T) / real(m.num_layers);
}

/// K and V of a half-group forward and once more backward, the fp32 sums of their gradients back.
int64_t halo_bytes_of(const StepShape& s, const ModelConfig& m) {
  const HeadRange all{0, s.layer.carry_heads};
  const int64_t there = halo_bytes(s.layer.rows, s.layer.part_half, all, m.head_dim, s.layer.element_bytes);
  return 2 * there + halo_bytes(s.layer.rows, s.layer.part_half, all, m.head_dim, 4);
}

double optimizer_seconds(const StepShape& s, const Rates& r) {
  // a share of the ranks: gradient, master and two moments read, three of them and the compute copy written; all: norm and zeroing
  const double update = (7 * kFloat + real(s.layer.element_bytes)) / real(s.state_ranks) + 2 * kFloat;
  const double tree = 3 * kFloat * real(s.micro_batches - 1);  // two gradients read, one written
  return real(s.trainable) * (update + tree) / r.elementwise;
}

/// Gradients to their owners, what they become to everyone.
double reduction_seconds(const StepShape& s, const Rates& r) {
  if (s.ranks == 1 || r.peers <= 0) return 0;
  return 2 * kFloat * real(s.trainable) * real(s.ranks - 1) / real(s.ranks) / r.peers;
}

void add_loss(const StepShape& s, const Rates& r, StepTime& t) {
  const double n = real(s.micro_batches) * real(s.layer.num_tokens());
  const double logit = s.layer.on_device ? kFloat : real(s.layer.element_bytes);
  t.products += n * head_flops_per_token(s) / r.products;
  // logits read, read and written as their gradient; the final norm both ways; a row of the embedding read, its gradient added
  t.elementwise += n * (3 * logit * real(s.vocabulary) + 9 * real(s.layer.element_bytes) * real(s.layer.hidden)) / r.elementwise;
}

}  // namespace

StepShape step_shape(const ModelConfig& m, const TrainConfig& config, const RunPlan& run, bool on_device, int64_t element_bytes,
                     int64_t weight_ranks) {
  const int64_t parts = config.dist.sequence_parallel;
  const ParameterCounts counts = count_parameters(m, config.tuning);
  StepShape s{.layer = layer_shape(m, config.tuning),
              .layers = m.num_layers,
              .vocabulary = m.vocab_size,
              .layer_lora = counts.lora / m.num_layers,
              .head_trained = plan::trains_head(m, config.tuning),
              .micro_batches = run.accumulation,
              .ranks = run.ranks * parts,
              .step_tokens = run.micro_batch * run.sequence_length * run.accumulation * run.ranks,
              .trainable = counts.trainable,
              .state_ranks = config.dist.shard_state == AutoBool::off ? 1 : run.ranks};
  s.layer.rows = run.micro_batch;
  s.layer.tokens = plan::longest_part(run, parts);
  s.layer.element_bytes = element_bytes;
  s.layer.on_device = on_device;
  s.layer.block = run.group / 2;
  const auto pattern = config.attention.pattern.value_or(AttentionPattern::cross_heads);
  s.layer.carry_heads = most_carry_heads(m, pattern);
  if (parts > 1) s.layer.part_half = std::min(run.group / 2, run.sequence_length);
  s.attention_flops = attention_flops_per_token(m, config, run) * real(s.layer.num_tokens());
  if (weight_ranks > 1) s.gather_bytes = WeightParts(m, element_bytes, weight_ranks).part_bytes() * (weight_ranks - 1);
  if (parts > 1) s.halo_bytes = halo_bytes_of(s, m);
  return s;
}

LayerTime layer_time(const StepShape& s, const LayerPolicy& p, const Rates& r) {
  const Pass forward = forward_pass(s, r), backward = backward_pass(s, p, r);
  LayerTime t{.products = forward.products + backward.products,
              .attention = forward.attention + backward.attention,
              .elementwise = forward.elementwise + backward.elementwise};
  const double copy = copy_seconds(s, p, r);
  if (s.layer.on_device)
    t.copies = exposed(copy, forward.total()) + exposed(copy, backward.total());
  else
    t.copies = copy;  // written once by the cores that compute, read where it lies
  if (r.peers > 0) {
    const double gather = real(s.gather_bytes) / r.peers;
    t.exchange = exposed(gather, forward.total()) + exposed(gather, backward.total()) + real(s.halo_bytes) / r.peers;
  }
  return t;
}

double layer_seconds(const StepShape& s, const LayerPolicy& p, const Rates& r) { return layer_time(s, p, r).total(); }

LayerSeconds::LayerSeconds(const StepShape& s, const Rates& r) {
  for (const KeepPolicy keep : {KeepPolicy::checkpoint, KeepPolicy::save_attention, KeepPolicy::save_all}) {
    for (const bool streamed : {false, true}) {
      for (const bool offloaded : {false, true}) {
        const LayerPolicy policy(keep, streamed, offloaded);
        seconds_[index(policy)] = layer_seconds(s, policy, r);
      }
    }
  }
}

FlopsPerToken flops_per_token(const StepShape& s, std::span<const LayerPolicy> policies) {
  const double attention = s.attention_flops / real(s.layer.num_tokens()), head = head_flops_per_token(s);
  FlopsPerToken flops{head, head};
  for (const LayerPolicy& p : policies) {
    const double model = product_flops_per_token(s) + (1 + kCountedAttention) * attention;
    flops.model += model;
    flops.hardware += model + recomputed_products_per_token(s, p) + (p.keep == KeepPolicy::checkpoint ? attention : 0);
  }
  return flops;
}

StepTime predict_step_time(const StepShape& s, std::span<const LayerPolicy> policies, const Rates& r) {
  StepTime t;
  const double times = real(s.micro_batches);
  for (const LayerPolicy& p : policies) {
    const LayerTime layer = layer_time(s, p, r);
    t.products += times * layer.products;
    t.attention += times * layer.attention;
    t.elementwise += times * layer.elementwise;
    t.copies += times * layer.copies;
    t.exchange += times * layer.exchange;
    if (s.layer.on_device) t.hidden_copies += times * (2 * copy_seconds(s, p, r) - layer.copies);
  }
  t.flops = flops_per_token(s, policies);
  add_loss(s, r, t);
  t.optimizer = optimizer_seconds(s, r);
  t.exchange += reduction_seconds(s, r);
  t.tokens_per_second = real(s.step_tokens) / t.total();
  const double of_one = t.tokens_per_second / real(s.ranks);
  t.mfu = t.flops.model * of_one / r.peak;
  t.hfu = t.flops.hardware * of_one / r.peak;
  t.peak = peak_text(r);
  return t;
}

std::string step_time_text(const StepTime& t) {
  const auto seconds = [](double s) {
    return s >= 9.995 ? fmt::format("{:.1f}", s) : s >= 0.09995 ? fmt::format("{:.2f}", s) : fmt::format("{:.3g}", s);
  };
  std::string text = fmt::format("{} s = products {} + attention {} + elementwise {} + exposed copies {}", seconds(t.total()),
                                 seconds(t.products), seconds(t.attention), seconds(t.elementwise), seconds(t.copies));
  if (t.exchange > 0) text += " + exchange " + seconds(t.exchange);
  if (t.optimizer > 0) text += " + optimizer " + seconds(t.optimizer);
  return text + fmt::format("   {:.{}f} tok/s   MFU {:.0f} %   HFU {:.0f} % of {}", t.tokens_per_second, t.tokens_per_second < 100 ? 1 : 0,
                            100 * t.mfu, 100 * t.hfu, t.peak);
}

}  // namespace longlora
