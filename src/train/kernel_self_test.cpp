// Each operation once on a device and once on the CPU; whatever it writes is compared.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "longlora/core/philox.h"
#include "longlora/ops/attention.h"
#include "longlora/ops/cross_entropy.h"
#include "longlora/ops/embedding.h"
#include "longlora/ops/rms_norm.h"
#include "longlora/ops/rope.h"
#include "longlora/ops/rows.h"
#include "longlora/ops/swiglu.h"
#include "longlora/optim/optimizer.h"
#include "longlora/train/self_test.h"

namespace longlora {
namespace {

using Tensors = std::vector<at::Tensor>;

/// Inputs in a fixed order, the same numbers on every device.
class Inputs {
 public:
  Inputs(const at::Device& device, at::ScalarType type) : device_(device), type_(type) {}
  at::Tensor operator()(at::IntArrayRef sizes) { return fp32(sizes).to(type_); }
  at::Tensor fp32(at::IntArrayRef sizes) {
    at::Tensor t = at::empty(sizes, at::TensorOptions().dtype(at::kFloat));
    const PhiloxStream numbers{.seed = 1, .purpose = Purpose::initialise, .row = stream_++};
    float* values = t.mutable_data_ptr<float>();
    for (int64_t i = 0; i < t.numel(); ++i) values[i] = 2 * uniform_from(numbers.words(static_cast<uint32_t>(i))[0]) - 1;
    return t.to(type_).to(device_, at::kFloat);  // of values that the type holds
  }
  at::Tensor zeros(at::IntArrayRef sizes) const { return at::zeros(sizes, at::TensorOptions().dtype(at::kFloat).device(device_)); }

 private:
  at::Device device_;
  at::ScalarType type_;
  uint32_t stream_ = 0;
};

constexpr int64_t kTokens = 37, kHeads = 4, kKvHeads = 2, kHeadDim = 64, kWidth = 96, kVocabulary = 51;

std::vector<int32_t> some_ids() {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTokens; ++i) ids.push_back(static_cast<int32_t>(i * i * 7 % kVocabulary));
  return ids;
}

Tensors attention(Inputs& in) {
  const at::Tensor q = in({1, kTokens, kHeads, kHeadDim}), k = in({1, kTokens, kKvHeads, kHeadDim}), v = in(k.sizes()), d_o = in(q.sizes());
  at::Tensor o = at::empty_like(q), lse = in.zeros({1, kHeads, kTokens}), workspace = in.zeros({kHeads * kTokens});
  at::Tensor d_q = at::empty_like(q), d_k = at::empty_like(k), d_v = at::empty_like(v);
  const AttentionLayout layout{
      .kind = AttentionKind::s2, .tokens = kTokens, .group = 8, .num_plain = kHeads / 2, .document_starts = {{0, 21}}};
  s2_attention_forward(layout, q, k, v, o, lse);
  s2_attention_backward(layout, q, k, v, o, lse, d_o, d_q, d_k, d_v, workspace);
  return {o, lse, d_q, d_k, d_v};
}

Tensors rms_norm(Inputs& in) {
  const at::Tensor x = in({kTokens, kWidth}), w = in({kWidth}), d_y = in(x.sizes());
  at::Tensor y = at::empty_like(x), d_x = in(x.sizes()), d_w = in.fp32({kWidth});
  rms_norm_forward(x, w, 1e-5, y);
  rms_norm_backward(x, w, 1e-5, d_y, d_x, d_w);
  return {y, d_x, d_w};
}

Tensors rope(Inputs& in) {
  at::Tensor x = in({kTokens, kHeads, kHeadDim}), d_x = at::empty_like(x);
  std::vector<float> frequencies;
  for (int i = 0; i < kHeadDim / 2; ++i) frequencies.push_back(static_cast<float>(std::pow(100.0, -2.0 * i / kHeadDim)));
  RopeTable table(frequencies, 1.0);
  table.reserve(kTokens);
  const std::vector<int32_t> positions = token_positions(1, kTokens, {{0, 21}});
  rope_backward(table, positions, 0, x, d_x);
  rope_forward(table, positions, 0, x);
  return {x, d_x};
}

Tensors swiglu(Inputs& in) {
  at::Tensor gate_up = in({kTokens, 2 * kWidth}), m = in({kTokens, kWidth});
  const at::Tensor d_m = in(m.sizes());
  swiglu_forward(gate_up, m);
  swiglu_backward(gate_up, d_m);
  return {m, gate_up};
}

Tensors embedding(Inputs& in) {
  const at::Tensor weight = in({kVocabulary, kWidth}), d_x = in({kTokens, kWidth});
  at::Tensor x = in(d_x.sizes()), d_weight = in.fp32(weight.sizes());
  embedding_forward(weight, some_ids(), x);
  embedding_backward(some_ids(), d_x, d_weight);
  return {x, d_weight};
}

Tensors cross_entropy(Inputs& in) {
  at::Tensor logits = in.fp32({kTokens, kVocabulary}), nll = in.zeros({kTokens}), again = in.zeros({kTokens});
  const std::vector<int32_t> labels = some_ids();
  cross_entropy_forward(logits, IntList(labels), nll);
  const at::Tensor d_logits = cross_entropy_forward_backward(logits, IntList(labels), 0.5f, at::kFloat, again);
  LossSum sum = sum_of(nll);
  settle(sum);
  at::Tensor total = in.zeros({1});
  total.fill_(sum.nll_sum);
  return {nll, again, d_logits, total};
}

Tensors rows(Inputs& in) {
  const at::Tensor from = in({kTokens, kWidth});
  at::Tensor packed = in({3, kWidth}), to = in(from.sizes());
  const std::vector<int64_t> index = {36, 0, 17}, ignored = {5, 6};
  gather_rows(from, index, packed);
  scatter_rows(packed, index, to);
  zero_rows(to, ignored);
  return {packed, to};
}

Tensors optimizer(Inputs& in) {
  Parameter p{.name = "p", .trainable = true, .weight = in({kTokens, kWidth})};
  p.master = p.weight.scalar_type() == at::kFloat ? p.weight : in.fp32(p.weight.sizes());
  p.grad = in.fp32(p.weight.sizes());
  TrainConfig::Optimizer options;
  options.learning_rate = 0.1;
  AdamW adamw({&p}, options);
  const at::Tensor nll = in.zeros({1}).to(at::kDouble);
  UpdateGate gate = update_gate(nll.is_cpu() ? LossSum{.targets = 1} : LossSum{.targets = 1, .pending = nll}, {&p}, 1.0);
  adamw.step(1, 1.0, gate);
  read(gate);
  at::Tensor norm = in.zeros({1});
  norm.fill_(gate.norm);
  return {norm, p.master, p.weight, p.adam_m, p.adam_v};
}

/// Largest difference relative to the largest element; NaN counts as infinite.
double difference(const at::Tensor& got, const at::Tensor& want) {
  const at::Tensor g = got.cpu().to(at::kDouble).contiguous(), w = want.to(at::kDouble).contiguous();
  double scale = 1e-30, worst = 0;
  for (int64_t i = 0; i < w.numel(); ++i) scale = std::max(scale, std::abs(w.const_data_ptr<double>()[i]));
  for (int64_t i = 0; i < w.numel(); ++i) {
    const double d = std::abs(g.const_data_ptr<double>()[i] - w.const_data_ptr<double>()[i]);
    if (!(d <= worst)) worst = std::isnan(d) ? INFINITY : d;
  }
  return worst / scale;
}

KernelTest compare(const std::string& name, const at::Device& device, at::ScalarType type, const std::function<Tensors(Inputs&)>& run) {
  const bool bf16 = type == at::kBFloat16;
  KernelTest test{.name = name + (bf16 ? " bf16" : " fp32"), .tolerance = bf16 ? 0x1p-6 : 1e-5};
  Inputs there(device, type), here(at::kCPU, type);
  const Tensors got = run(there), want = run(here);
  for (size_t i = 0; i < want.size(); ++i) test.largest_error = std::max(test.largest_error, difference(got[i], want[i]));
  test.passed = test.largest_error <= test.tolerance;
  return test;
}

}  // namespace

std::vector<KernelTest> kernel_self_tests(const at::Device& device) {
  const std::pair<const char*, std::function<Tensors(Inputs&)>> operations[] = {
      {"attention", attention}, {"rms_norm", rms_norm},           {"rope", rope}, {"swiglu", swiglu},
      {"embedding", embedding}, {"cross_entropy", cross_entropy}, {"rows", rows}, {"optimizer", optimizer}};
  std::vector<KernelTest> tests;
  for (const auto& [name, run] : operations)
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) tests.push_back(compare(name, device, type, run));
  return tests;
}

}  // namespace longlora
