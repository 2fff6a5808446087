#pragma once
// One call of the attention operator for tests: random strided inputs, outputs poisoned with NaN inside guard bytes.
#include <ATen/ops/full.h>

#include <ostream>
#include <random>

#include "longlora/ops/attention.h"
#include "support/attention_oracle.h"
#include "support/tensors.h"
#include "support/tolerances.h"

namespace longlora::test {

struct AttentionCase {
  int64_t B = 1, T = 1, H = 1, K = 1, D = 8, group = 2, num_plain = 0;
  AttentionKind kind = AttentionKind::s2;
  at::ScalarType type = at::kFloat;
  std::vector<std::vector<int64_t>> documents;
  double deviation = 1;  // of q and k
  uint32_t seed = 1;

  AttentionLayout layout() const { return {kind, T, group, num_plain, documents}; }
  oracle::Layout oracle_layout() const {
    return {kind == AttentionKind::full ? "full" : kind == AttentionKind::s2 ? "s2" : "s2_wrap", T, group, num_plain, documents};
  }
};

inline std::ostream& operator<<(std::ostream& out, const AttentionCase& c) {
  out << "B " << c.B << " T " << c.T << " H " << c.H << " K " << c.K << " D " << c.D << " group " << c.group << " plain " << c.num_plain
      << " kind " << static_cast<int>(c.kind) << (c.type == at::kFloat ? " fp32" : " bf16") << " deviation " << c.deviation << " seed "
      << c.seed;
  for (const auto& row : c.documents) {
    out << " documents";
    for (int64_t d : row) out << ' ' << d;
  }
  return out;
}

/// heads [first, first + count) of a packed [B, T, total, D] buffer
inline at::Tensor heads_of(const at::Tensor& packed, int64_t first, int64_t count) { return packed.narrow(2, first, count); }

/// Inputs are slices of one packed qkv buffer, so no view is contiguous when there is more than one token.
struct AttentionInputs {
  explicit AttentionInputs(const AttentionCase& c) {
    qkv = random_tensor({c.B, c.T, c.H + 2 * c.K, c.D}, c.seed, 1, c.type);
    q = heads_of(qkv, 0, c.H);
    k = heads_of(qkv, c.H, c.K);
    v = heads_of(qkv, c.H + c.K, c.K);
    if (c.deviation != 1) heads_of(qkv, 0, c.H + c.K).mul_(c.deviation);
    d_o = random_tensor({c.B, c.T, c.H, c.D}, c.seed + 1, 1, c.type);
  }
  at::Tensor qkv, q, k, v, d_o;
};

struct AttentionOutputs {
  at::Tensor o, lse, d_q, d_k, d_v;
};

inline AttentionOutputs run_attention(const AttentionLayout& layout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const at::Tensor& d_o) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), K = k.size(2), D = q.size(3);
  const at::Tensor d_qkv = at::full({B, std::max(T, k.size(1)), H + 2 * K, D}, NAN, q.options());
  AttentionOutputs r{at::full(q.sizes(), NAN, q.options()), at::full({B, H, T}, NAN, at::TensorOptions().dtype(at::kFloat)),
                     heads_of(d_qkv, 0, H).narrow(1, 0, T), heads_of(d_qkv, H, K).narrow(1, 0, k.size(1)),
                     heads_of(d_qkv, H + K, K).narrow(1, 0, k.size(1))};
  at::Tensor workspace = at::full({attention_workspace_elements(B, T, H)}, NAN, at::TensorOptions().dtype(at::kFloat));
  s2_attention_forward(layout, q, k, v, r.o, r.lse);
  s2_attention_backward(layout, q, k, v, r.o, r.lse, d_o, r.d_q, r.d_k, r.d_v, workspace);
  return r;
}
inline AttentionOutputs run_attention(const AttentionCase& c, const AttentionInputs& in) {
  return run_attention(c.layout(), in.q, in.k, in.v, in.d_o);
}

/// In bf16 the gradients are held against the adjoint with the output as stored: its rounding alone exceeds the bounds where a query sees
/// a handful of keys. `Against::definition` compares with the definition itself.
enum class Against { stored_output, definition };

/// "" when every output is within the bounds of docs/attention.md section 10, else the list of violations.
inline std::string compare_with_oracle(const AttentionCase& c, const AttentionInputs& in, const AttentionOutputs& got,
                                       Against against = Against::stored_output) {
  const bool use_stored = c.type == at::kBFloat16 && against == Against::stored_output;
  const oracle::Result want = oracle::attention(c.oracle_layout(), in.q, in.k, in.v, in.d_o, use_stored ? got.o : at::Tensor());
  const AttentionBounds bounds = attention_bounds(dtype_of(in.q));
  std::string problems;
  const auto check = [&](const char* name, const at::Tensor& x, const at::Tensor& ref, AttentionBound bound) {
    const std::vector<double> a = doubles(x), b = doubles(ref);
    double difference = 0, norm = 0, largest = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double e = std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : INFINITY;
      difference += e * e;
      norm += b[i] * b[i];
      largest = std::max(largest, e);
    }
    const double rms = std::sqrt(norm / static_cast<double>(a.size())) + 1e-12;
    const double frobenius = std::sqrt(difference) / (std::sqrt(norm) + 1e-12);
    // A gradient may vanish (one visible key): then rounding is measured against the size of its inputs.
    const bool vanishes = rms < 1e-5;
    const double few = a.size() < 1024 ? 3 : 1;  // a norm over few elements does not average: the largest rounding is up to 3 rms
    const double limit = vanishes ? bound.largest * 1e-1 : bound.largest * rms;
    if (largest > limit || (!vanishes && frobenius > few * bound.frobenius)) {
      problems += std::string(name) + ": F " + std::to_string(frobenius * 1e6) + "e-6, M " + std::to_string(largest / rms) + "; ";
    }
  };
  check("o", got.o, want.o, bounds.o);
  check("d_q", got.d_q, want.d_q, bounds.d_q);
  check("d_k", got.d_k, want.d_k, bounds.d_k);
  check("d_v", got.d_v, want.d_v, bounds.d_v);
  const std::vector<double> lse = doubles(got.lse), ref = doubles(want.lse);
  for (size_t i = 0; i < lse.size(); ++i) {
    if (!(std::abs(lse[i] - ref[i]) <= bounds.lse)) {
      problems += "lse " + std::to_string(lse[i]) + " for " + std::to_string(ref[i]);
      break;
    }
  }
  return problems;
}

}  // namespace longlora::test
