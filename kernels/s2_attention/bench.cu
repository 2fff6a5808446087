// Times the attention kernels: forward, delta, dK/dV, dQ and the whole backward pass, in TFLOP/s on exact pairs (4 D forward, 10 D
// backward).
//   bench_s2_attention [--quick]
// Every combination of heads and head size is checked first, against fp64 on small rows, aligned and not; and every timed forward on
// sampled positions of its own shape. A combination that fails is not timed.
#include <cmath>
#include <random>

#include "bench/bench.h"
#include "longlora/kernels/s2_attention.h"
#include "longlora/kernels/s2_layout.h"

namespace longlora::bench {
namespace {

using kernels::HeadView;
using kernels::S2Shape;
using kernels::StatisticsView;

struct Case {
  int64_t tokens, group, heads, kv_heads, head_size;
  bool full = false;
  std::string text() const {
    return "T=" + std::to_string(tokens) + (full ? " full" : " g=" + std::to_string(group)) + " H=" + std::to_string(heads) +
           " K=" + std::to_string(kv_heads) + " d=" + std::to_string(head_size);
  }
  int64_t num_plain() const { return heads / 2; }
  double pairs() const {
    const double plain = static_cast<double>(allowed_pairs(tokens, group, Shift::none));
    const double shifted = static_cast<double>(allowed_pairs(tokens, group, Shift::half_group));
    return plain * static_cast<double>(num_plain()) + shifted * static_cast<double>(heads - num_plain());
  }
};

/// q, k, v and their gradients as slices of packed rows, as the model has them.
class Attention {
 public:
  explicit Attention(const Case& c)
      : c_(c),
        width_((c.heads + 2 * c.kv_heads) * c.head_size),
        qkv_(c.tokens * width_ * 2),
        d_qkv_(c.tokens * width_ * 2),
        o_(c.tokens * c.heads * c.head_size * 2),
        d_o_(o_.bytes()),
        lse_(c.tokens * c.heads * 4),
        delta_(c.tokens * c.heads * 4) {
    fill_normal(qkv_.at(), c.tokens * width_, ElementType::bf16, 1);
    fill_normal(d_o_.at(), c.tokens * c.heads * c.head_size, ElementType::bf16, 2);
    require(cudaMemset(o_.at(), 0xff, static_cast<size_t>(o_.bytes())), "poison");
    require(cudaMemset(d_qkv_.at(), 0xff, static_cast<size_t>(d_qkv_.bytes())), "poison");
  }
  void forward() { require(kernels::s2_attention_forward(shape(), q(), k(), v(), o(), lse(), nullptr), "forward"); }
  void delta() { require(kernels::s2_attention_delta(shape(), o(), d_o(), delta_view(), nullptr), "delta"); }
  void backward_kv() {
    const kernels::S2BackwardKv b{q(), k(), v(), d_o(), d_k(), d_v(), lse(), delta_view(), {}, {}};
    require(kernels::s2_attention_backward_kv(shape(), b, nullptr), "backward_kv");
  }
  void backward_q() {
    const kernels::S2BackwardQ b{q(), k(), v(), d_o(), d_q(), lse(), delta_view()};
    require(kernels::s2_attention_backward_q(shape(), b, nullptr), "backward_q");
  }
  void backward() { delta(), backward_kv(), backward_q(); }

  const char* variant() const { return name_of(attention_variant(shape())); }
  /// [tokens, D] of one head, as doubles, from position `begin` on.
  std::vector<double> head(const HeadView& view, int64_t head, int64_t begin, int64_t count) const {
    std::vector<uint16_t> raw(static_cast<size_t>(count * c_.head_size));
    const auto* from = static_cast<const uint16_t*>(view.data) + begin * view.token + head * view.head;
    const auto row = static_cast<size_t>(c_.head_size * 2);
    require(
        cudaMemcpy2D(raw.data(), row, from, static_cast<size_t>(view.token * 2), row, static_cast<size_t>(count), cudaMemcpyDeviceToHost),
        "copy to the host");
    std::vector<double> values(raw.size());
    std::transform(raw.begin(), raw.end(), values.begin(), from_bf16);
    return values;
  }
  HeadView q() const { return slice(qkv_, 0); }
  HeadView k() const { return slice(qkv_, c_.heads); }
  HeadView v() const { return slice(qkv_, c_.heads + c_.kv_heads); }
  HeadView d_q() const { return slice(d_qkv_, 0); }
  HeadView d_k() const { return slice(d_qkv_, c_.heads); }
  HeadView d_v() const { return slice(d_qkv_, c_.heads + c_.kv_heads); }
  HeadView o() const { return {o_.at(), 0, c_.heads * c_.head_size, c_.head_size}; }
  HeadView d_o() const { return {d_o_.at(), 0, c_.heads * c_.head_size, c_.head_size}; }

 private:
  S2Shape shape() const {
    S2Shape s;
    s.type = ElementType::bf16;
    s.rows = 1, s.tokens = c_.tokens, s.group = c_.full ? 2 * c_.tokens : c_.group;
    s.num_heads = c_.heads, s.num_kv_heads = c_.kv_heads, s.num_plain = c_.num_plain(), s.head_size = c_.head_size;
    s.q_end = s.k_end = c_.tokens;
    return s;
  }
  HeadView slice(const Buffer& b, int64_t head) const { return {b.at(head * c_.head_size * 2), 0, width_, c_.head_size}; }
  StatisticsView lse() const { return {lse_.at<float>(), 0, c_.tokens}; }
  StatisticsView delta_view() const { return {delta_.at<float>(), 0, c_.tokens}; }
  Case c_;
  int64_t width_;
  Buffer qkv_, d_qkv_, o_, d_o_, lse_, delta_;
};

/// First position that t may see, from the list of boundaries (docs/attention.md, section 2), not from s2_layout.h.
int64_t segment_begin(const Case& c, int64_t head, int64_t t) {
  const int64_t group = c.full ? 2 * c.tokens : c.group;
  int64_t begin = 0;
  for (int64_t edge = head < c.num_plain() ? group : group / 2; edge <= t; edge += group) begin = edge;
  return begin;
}

std::vector<double> softmax_row(const std::vector<double>& q, const std::vector<double>& k, int64_t d, int64_t first, int64_t last) {
  std::vector<double> p;
  double largest = -1e300, sum = 0;
  for (int64_t u = first; u <= last; ++u) {
    double s = 0;
    for (int64_t i = 0; i < d; ++i) s += q[static_cast<size_t>(i)] * k[static_cast<size_t>((u - first) * d + i)];
    p.push_back(s / std::sqrt(static_cast<double>(d)));
    largest = std::max(largest, p.back());
  }
  for (double& x : p) sum += x = std::exp(x - largest);
  for (double& x : p) x /= sum;
  return p;
}

/// Forward at sampled positions of the timed shape.
double sampled_forward_error(const Case& c, Attention& a) {
  std::mt19937_64 random(7);
  std::vector<double> seen, expected;
  for (int i = 0; i < 12; ++i) {
    const int64_t h = static_cast<int64_t>(random() % static_cast<uint64_t>(c.heads));
    const int64_t t = i == 0 ? c.tokens - 1 : static_cast<int64_t>(random() % static_cast<uint64_t>(c.tokens));
    const int64_t begin = segment_begin(c, h, t), kv = h / (c.heads / c.kv_heads);
    const auto q = a.head(a.q(), h, t, 1), k = a.head(a.k(), kv, begin, t - begin + 1), v = a.head(a.v(), kv, begin, t - begin + 1);
    const auto p = softmax_row(q, k, c.head_size, begin, t), o = a.head(a.o(), h, t, 1);
    for (int64_t x = 0; x < c.head_size; ++x) {
      double sum = 0;
      for (size_t u = 0; u < p.size(); ++u) sum += p[u] * v[u * static_cast<size_t>(c.head_size) + static_cast<size_t>(x)];
      expected.push_back(sum), seen.push_back(o[static_cast<size_t>(x)]);
    }
  }
  return relative_error(seen, expected);
}

struct Gradients {
  std::vector<double> q, k, v;
};
/// All of one KV head's gradients in fp64, the query heads of it one after another in q.
Gradients reference_gradients(const Case& c, Attention& a, int64_t kv) {
  const int64_t d = c.head_size, T = c.tokens, per_kv = c.heads / c.kv_heads;
  const auto k = a.head(a.k(), kv, 0, T), v = a.head(a.v(), kv, 0, T);
  Gradients g{{}, std::vector<double>(k.size()), std::vector<double>(v.size())};
  for (int64_t h = kv * per_kv; h < (kv + 1) * per_kv; ++h) {
    const auto q = a.head(a.q(), h, 0, T), d_o = a.head(a.d_o(), h, 0, T);
    for (int64_t t = 0; t < T; ++t) {
      const int64_t first = segment_begin(c, h, t);
      const auto p =
          softmax_row({q.begin() + t * d, q.begin() + (t + 1) * d}, {k.begin() + first * d, k.begin() + (t + 1) * d}, d, first, t);
      std::vector<double> d_p(p.size()), d_q(static_cast<size_t>(d));
      double delta = 0;
      for (int64_t u = first; u <= t; ++u) {
        double dot = 0;
        for (int64_t i = 0; i < d; ++i) dot += d_o[static_cast<size_t>(t * d + i)] * v[static_cast<size_t>(u * d + i)];
        d_p[static_cast<size_t>(u - first)] = dot;
        delta += dot * p[static_cast<size_t>(u - first)];
      }
      for (int64_t u = first; u <= t; ++u) {
        const double weight = p[static_cast<size_t>(u - first)];
        const double d_s = weight * (d_p[static_cast<size_t>(u - first)] - delta) / std::sqrt(static_cast<double>(d));
        for (int64_t i = 0; i < d; ++i) {
          const auto ti = static_cast<size_t>(t * d + i), ui = static_cast<size_t>(u * d + i);
          d_q[static_cast<size_t>(i)] += d_s * k[ui];
          g.k[ui] += d_s * q[ti];
          g.v[ui] += weight * d_o[ti];
        }
      }
      g.q.insert(g.q.end(), d_q.begin(), d_q.end());
    }
  }
  return g;
}

/// The largest relative error of dQ, dK, dV and O over some KV heads of a small case.
double small_case_error(const Case& c) {
  Attention a(c);
  a.forward(), a.backward();
  double worst = sampled_forward_error(c, a);
  const int64_t per_kv = c.heads / c.kv_heads;
  for (const int64_t kv : {int64_t{0}, (c.num_plain() - 1) / per_kv, c.kv_heads - 1}) {
    const Gradients g = reference_gradients(c, a, kv);
    std::vector<double> d_q;
    for (int64_t h = kv * per_kv; h < (kv + 1) * per_kv; ++h) {
      const auto one = a.head(a.d_q(), h, 0, c.tokens);
      d_q.insert(d_q.end(), one.begin(), one.end());
    }
    worst = std::max({worst, relative_error(d_q, g.q), relative_error(a.head(a.d_k(), kv, 0, c.tokens), g.k),
                      relative_error(a.head(a.d_v(), kv, 0, c.tokens), g.v)});
  }
  return worst;
}

constexpr double kForwardTolerance = 4e-3, kBackwardTolerance = 1e-2;  // bf16: docs/attention.md, section 10

bool heads_are_right(int64_t heads, int64_t kv_heads, int64_t head_size) {
  for (const Case& small : {Case{384, 128, heads, kv_heads, head_size}, Case{333, 90, heads, kv_heads, head_size}}) {
    const double error = small_case_error(small);
    if (!(error <= kBackwardTolerance)) {
      print_failure("s2_attention", small.text(), "relative error " + std::to_string(error) + " against fp64; not timed");
      return false;
    }
  }
  return true;
}

void time_case(const Case& c, Clock& clock) {
  Attention a(c);
  a.forward();
  if (const double error = sampled_forward_error(c, a); !(error <= kForwardTolerance))
    return print_failure("s2_attention_forward", c.text(), "relative error " + std::to_string(error) + " at sampled positions; not timed");
  const double flops = c.pairs() * static_cast<double>(c.head_size);
  print_row("s2_attention_forward", c.text(), a.variant(), clock.time([&] { a.forward(); }), "tflops", 4 * flops);
  print_row("s2_attention_backward", c.text(), a.variant(), clock.time([&] { a.backward(); }), "tflops", 10 * flops);
  print_row("s2_attention_backward_kv", c.text(), a.variant(), clock.time([&] { a.backward_kv(); }), "tflops", 8 * flops);
  print_row("s2_attention_backward_q", c.text(), a.variant(), clock.time([&] { a.backward_q(); }), "tflops", 6 * flops);
  const double bytes = 4.0 * static_cast<double>(c.tokens * c.heads * c.head_size) + 4.0 * static_cast<double>(c.tokens * c.heads);
  print_row("s2_attention_delta", c.text(), a.variant(), clock.time([&] { a.delta(); }), "gbs", bytes);
}

std::vector<Case> cases(bool quick) {
  std::vector<Case> list;
  for (const int64_t g : {1024, 2048, 4096, 8192, 25600})
    if (!quick || g <= 2048) list.push_back({4 * g, g, 32, 32, 128});
  if (quick) return list;
  list.push_back({100000, 25000, 32, 32, 128});  // not a multiple of any tile
  list.push_back({32768, 8192, 64, 8, 128});
  list.push_back({16384, 4096, 9, 3, 64});
  for (const int64_t t : {8192, 32768}) list.push_back({t, 2 * t, 32, 32, 128, true});
  return list;
}

}  // namespace
}  // namespace longlora::bench

int main(int argc, char** argv) {
  using namespace longlora::bench;
  const bool quick = argc == 2 && std::string(argv[1]) == "--quick";
  if (argc > 2 || (argc == 2 && !quick)) stop("usage: bench_s2_attention [--quick]");
  Clock clock;
  std::string wrong, right;
  for (const Case& c : cases(quick)) {
    const std::string heads = std::to_string(c.heads) + "," + std::to_string(c.kv_heads) + "," + std::to_string(c.head_size) + ";";
    if (right.find(heads) == std::string::npos && wrong.find(heads) == std::string::npos)
      (heads_are_right(c.heads, c.kv_heads, c.head_size) ? right : wrong) += heads;
    if (right.find(heads) != std::string::npos) time_case(c, clock);
  }
  return anything_failed() ? 1 : 0;
}
