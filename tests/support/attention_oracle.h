#pragma once
// Segmented causal attention from its definition, in fp64, one explicit T x T mask a head: boundary lists, or for s2_wrap the roll itself.
// Shares no code with the product; the index map's header must not be included here.

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <string>
#include <vector>

namespace longlora::oracle {

struct Layout {
  std::string kind = "s2";  // s2, full, s2_wrap
  int64_t tokens = 0, group = 0, num_plain = 0;
  std::vector<std::vector<int64_t>> documents;  // per row; empty = one document
};

/// Cuts of a document of `length` tokens, both ends included.
inline std::vector<int64_t> boundaries(bool shifted, int64_t length, int64_t group) {
  std::vector<int64_t> cuts{0};
  for (int64_t at = shifted ? group / 2 : group; at < length; at += group) cuts.push_back(at);
  cuts.push_back(length);
  return cuts;
}

/// mask[t * T + u]: may query t of the head see key u?
inline std::vector<char> mask(const Layout& l, size_t row, int64_t head) {
  const int64_t T = l.tokens, half = l.group / 2;
  const bool shifted = l.kind != "full" && head >= l.num_plain;
  std::vector<int64_t> order(T), label(T);
  for (int64_t t = 0; t < T; ++t) order[t] = t;
  if (shifted && l.kind == "s2_wrap") {
    for (int64_t t = 0; t < T; ++t) {
      order[t] = (t - half + T) % T;  // place after rolling left by half a group
      label[t] = order[t] / l.group;
    }
  } else {
    std::vector<int64_t> edges = row < l.documents.size() && !l.documents[row].empty() ? l.documents[row] : std::vector<int64_t>{0};
    edges.push_back(T);
    int64_t next = 0;
    for (size_t d = 0; d + 1 < edges.size(); ++d) {
      const int64_t length = edges[d + 1] - edges[d];
      const auto cuts = l.kind == "full" ? std::vector<int64_t>{0, length} : boundaries(shifted, length, l.group);
      for (size_t i = 0; i + 1 < cuts.size(); ++i, ++next) {
        for (int64_t t = cuts[i]; t < cuts[i + 1]; ++t) label[edges[d] + t] = next;
      }
    }
  }
  std::vector<char> allowed(T * T);
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t u = 0; u < T; ++u) allowed[t * T + u] = label[t] == label[u] && order[u] <= order[t];
  }
  return allowed;
}

struct Result {
  at::Tensor o, lse, d_q, d_k, d_v;  // fp64; lse [B, H, T]
};

/// Forward, and backward when `d_o` is defined. q, k, v, d_o of any type and strides. delta = sum p dp, or with `stored_o` the
/// product of d_o with it: what a backward pass that reads a rounded output is the adjoint of.
inline Result attention(const Layout& l, const at::Tensor& q_any, const at::Tensor& k_any, const at::Tensor& v_any,
                        const at::Tensor& d_o_any, const at::Tensor& stored_o = {}) {
  const at::Tensor q = q_any.to(at::kDouble).contiguous(), k = k_any.to(at::kDouble).contiguous(), v = v_any.to(at::kDouble).contiguous();
  const at::Tensor d_o = d_o_any.defined() ? d_o_any.to(at::kDouble).contiguous() : at::zeros_like(q);
  const at::Tensor saved = stored_o.defined() ? stored_o.to(at::kDouble).contiguous() : at::Tensor();
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), D = q.size(3), K = k.size(2);
  Result r{at::zeros_like(q), at::zeros({B, H, T}, q.options()), at::zeros_like(q), at::zeros_like(k), at::zeros_like(k)};
  const double scale = 1 / std::sqrt(static_cast<double>(D));
  double *lse = r.lse.data_ptr<double>(), *o = r.o.data_ptr<double>(), *d_q = r.d_q.data_ptr<double>(), *d_k = r.d_k.data_ptr<double>(),
         *d_v = r.d_v.data_ptr<double>();
  const double *queries = q.data_ptr<double>(), *keys = k.data_ptr<double>(), *values = v.data_ptr<double>();
  const double* gradients = d_o.data_ptr<double>();
  const auto dot = [&](const double* x, const double* y) {
    double sum = 0;
    for (int64_t d = 0; d < D; ++d) sum += x[d] * y[d];
    return sum;
  };
  const auto add = [&](double* x, double factor, const double* y) {
    for (int64_t d = 0; d < D; ++d) x[d] += factor * y[d];
  };
  std::vector<double> p(T), dp(T);
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      const std::vector<char> allowed = mask(l, b, h);
      const int64_t j = h * K / H;
      for (int64_t t = 0; t < T; ++t) {
        const int64_t at_q = ((b * T + t) * H + h) * D;
        const auto at_k = [&](int64_t u) { return ((b * T + u) * K + j) * D; };
        double top = -INFINITY, sum = 0, delta = 0;
        for (int64_t u = 0; u < T; ++u) {
          if (!allowed[t * T + u]) continue;
          p[u] = scale * dot(queries + at_q, keys + at_k(u));
          top = std::max(top, p[u]);
        }
        for (int64_t u = 0; u < T; ++u) sum += allowed[t * T + u] ? std::exp(p[u] - top) : 0;
        lse[(b * H + h) * T + t] = top + std::log(sum);
        for (int64_t u = 0; u < T; ++u) {
          if (!allowed[t * T + u]) continue;
          p[u] = std::exp(p[u] - top) / sum;
          dp[u] = dot(gradients + at_q, values + at_k(u));
          delta += p[u] * dp[u];
          add(o + at_q, p[u], values + at_k(u));
        }
        if (saved.defined()) delta = dot(gradients + at_q, saved.data_ptr<double>() + at_q);
        for (int64_t u = 0; u < T; ++u) {
          if (!allowed[t * T + u]) continue;
          const double ds = scale * p[u] * (dp[u] - delta);
          add(d_q + at_q, ds, keys + at_k(u));
          add(d_k + at_k(u), ds, queries + at_q);
          add(d_v + at_k(u), p[u], gradients + at_q);
        }
      }
    }
  }
  return r;
}

}  // namespace longlora::oracle
