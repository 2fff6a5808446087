// Attention of this project against LibTorch's own causal attention called segment by segment on strided views, same process, same
// threads, calls taking turns. Verifies against the fp64 oracle first and times nothing if that fails.
//
//   bench_attention [--threads N] [--repeats N] [--json] [--cpu-time] [T g H K D]...      g = 0: full attention
// --cpu-time: processor time of the whole process instead of wall time, for one thread on a machine that is busy with other work.
#include <ATen/Parallel.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu.h>
#include <ATen/ops/_scaled_dot_product_flash_attention_for_cpu_backward.h>
#include <ATen/ops/mm.h>
#include <time.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "longlora/kernels/s2_layout.h"
#include "ops/attention_case.h"

namespace longlora::test {
namespace {

struct Shape {
  int64_t T, group, H, K, D;
};

AttentionCase case_of(const Shape& s) {
  AttentionCase c{1, s.T, s.H, s.K, s.D, std::max<int64_t>(s.group, 2), s.H / 2};
  if (s.group == 0) c.kind = AttentionKind::full;
  return c;
}

/// The peer: keys and values repeated for the query heads beforehand, which is not timed.
class Stock {
 public:
  Stock(const AttentionCase& c, const AttentionInputs& in) {
    const auto heads_first = [](const at::Tensor& x) { return x.transpose(1, 2); };
    q_ = heads_first(in.q);
    k_ = heads_first(in.k.repeat_interleave(c.H / c.K, 2));
    v_ = heads_first(in.v.repeat_interleave(c.H / c.K, 2));
    d_o_ = heads_first(in.d_o);
    const bool is_full = c.kind == AttentionKind::full;
    add_segments(c, 0, is_full ? c.H : c.num_plain, is_full ? 2 * c.T : c.group, Shift::none);
    if (!is_full) add_segments(c, c.num_plain, c.H, c.group, Shift::half_group);
  }

  void forward() {
    for (Part& p : parts_) {
      std::tie(p.o, p.lse) = at::_scaled_dot_product_flash_attention_for_cpu(cut(q_, p), cut(k_, p), cut(v_, p), 0.0, true);
    }
  }
  void backward() {
    for (Part& p : parts_) {
      std::tie(p.d_q, p.d_k, p.d_v) =
          at::_scaled_dot_product_flash_attention_for_cpu_backward(cut(d_o_, p), cut(q_, p), cut(k_, p), cut(v_, p), p.o, p.lse, 0.0, true);
    }
  }

  /// Largest difference of o and d_q from ours.
  double difference(const AttentionOutputs& ours) const {
    double worst = 0;
    for (const Part& p : parts_) {
      worst = std::max(worst, (cut(ours.o.transpose(1, 2), p) - p.o).abs().max().item<double>());
      worst = std::max(worst, (cut(ours.d_q.transpose(1, 2), p) - p.d_q).abs().max().item<double>());
    }
    return worst;
  }

 private:
  struct Part {
    int64_t head, heads, begin, end;
    at::Tensor o, lse, d_q, d_k, d_v;
  };

  void add_segments(const AttentionCase& c, int64_t first, int64_t last, int64_t group, Shift shift) {
    for (int64_t at = 0; at < c.T && first < last;) {
      const Segment s = segment_of(at, {0, c.T}, group, shift);
      parts_.push_back({first, last - first, s.begin, s.end});
      at = s.end;
    }
  }
  static at::Tensor cut(const at::Tensor& x, const Part& p) { return x.narrow(1, p.head, p.heads).narrow(2, p.begin, p.end - p.begin); }

  at::Tensor q_, k_, v_, d_o_;
  std::vector<Part> parts_;
};

clockid_t timing_clock = CLOCK_MONOTONIC;

double now_seconds() {
  timespec t;
  clock_gettime(timing_clock, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <class F>
double seconds(F&& f) {
  const double start = now_seconds();
  f();
  return now_seconds() - start;
}

struct Times {
  std::vector<double> all;
  double quantile(double share) {
    std::sort(all.begin(), all.end());
    return all[static_cast<size_t>(share * static_cast<double>(all.size() - 1) + 0.5)];
  }
};

bool is_verified(const Shape& s) {
  Shape small = s;
  small.T = 384;
  small.group = s.group == 0 ? 0 : 96;
  const AttentionCase c = case_of(small);
  const AttentionInputs in(c);
  const std::string problems = compare_with_oracle(c, in, run_attention(c, in));
  if (!problems.empty()) std::fprintf(stderr, "not timed, differs from the oracle: %s\n", problems.c_str());
  return problems.empty();
}

double gemm_gflops() {
  const at::Tensor a = random_tensor({1024, 576}, 1), b = random_tensor({576, 576}, 2);
  Times times;
  for (int i = 0; i < 9; ++i) times.all.push_back(seconds([&] { at::mm(a, b); }));
  return 2.0 * 1024 * 576 * 576 / times.quantile(0.5) / 1e9;
}

bool run_shape(const Shape& s, int repeats, bool as_json) {
  if (!is_verified(s)) return false;
  const AttentionCase c = case_of(s);
  const AttentionInputs in(c);
  AttentionOutputs r = run_attention(c, in);
  at::Tensor workspace = at::empty({attention_workspace_elements(1, c.T, c.H)}, at::TensorOptions().dtype(at::kFloat));
  Stock stock(c, in);
  Times forward, backward, stock_forward, stock_backward;
  for (int i = 0; i < repeats; ++i) {
    stock_forward.all.push_back(seconds([&] { stock.forward(); }));
    forward.all.push_back(seconds([&] { s2_attention_forward(c.layout(), in.q, in.k, in.v, r.o, r.lse); }));
    stock_backward.all.push_back(seconds([&] { stock.backward(); }));
    backward.all.push_back(
        seconds([&] { s2_attention_backward(c.layout(), in.q, in.k, in.v, r.o, r.lse, in.d_o, r.d_q, r.d_k, r.d_v, workspace); }));
  }
  if (!(stock.difference(r) < 1e-3)) {
    std::fprintf(stderr, "differs from LibTorch's attention by %g\n", stock.difference(r));
    return false;
  }
  const int64_t num_plain = s.group == 0 ? c.H : c.num_plain, group = s.group == 0 ? 2 * c.T : c.group;
  const double pairs = static_cast<double>(num_plain * allowed_pairs(c.T, group, Shift::none) +
                                           (c.H - num_plain) * allowed_pairs(c.T, group, Shift::half_group));
  const double flops_forward = 4.0 * static_cast<double>(c.D) * pairs / 1e9, flops_backward = 2.5 * flops_forward;
  const double f = forward.quantile(0.5), b = backward.quantile(0.5), sf = stock_forward.quantile(0.5), sb = stock_backward.quantile(0.5);
  if (as_json) {
    std::printf(
        "{\"tokens\": %ld, \"group\": %ld, \"heads\": %ld, \"kv_heads\": %ld, \"head_size\": %ld, \"threads\": %d, "
        "\"forward_ms\": %.3f, \"backward_ms\": %.3f, \"stock_forward_ms\": %.3f, \"stock_backward_ms\": %.3f, "
        "\"forward_gflops\": %.1f, \"backward_gflops\": %.1f, \"gemm_gflops\": %.1f, \"ratio\": %.3f}\n",
        c.T, s.group, c.H, c.K, c.D, at::get_num_threads(), f * 1e3, b * 1e3, sf * 1e3, sb * 1e3, flops_forward / f, flops_backward / b,
        gemm_gflops(), (sf + sb) / (f + b));
  } else {
    std::printf(
        "%6ld %5ld %2ld/%-2ld %4ld | %8.2f %8.2f %6.2fx | %8.2f %8.2f %6.2fx | %6.2fx | %4.0f %4.0f GFLOP/s, "
        "LibTorch %4.0f %4.0f, mm %4.0f\n",
        c.T, s.group, c.H, c.K, c.D, f * 1e3, sf * 1e3, sf / f, b * 1e3, sb * 1e3, sb / b, (sf + sb) / (f + b), flops_forward / f,
        flops_backward / b, flops_forward / sf, flops_backward / sb, gemm_gflops());
  }
  return true;
}

int run(int argc, char** argv) {
  int repeats = 7;
  bool as_json = false;
  std::vector<int64_t> numbers;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg == "--json")
      as_json = true;
    else if (arg == "--cpu-time")
      timing_clock = CLOCK_PROCESS_CPUTIME_ID;
    else if (arg == "--threads" && i + 1 < argc)
      at::set_num_threads(std::atoi(argv[++i]));
    else if (arg == "--repeats" && i + 1 < argc)
      repeats = std::atoi(argv[++i]);
    else
      numbers.push_back(std::atoll(argv[i]));
  }
  std::vector<Shape> shapes;
  for (size_t i = 0; i + 5 <= numbers.size(); i += 5) {
    shapes.push_back({numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3], numbers[i + 4]});
  }
  if (shapes.empty()) {
    shapes = {{4096, 1024, 9, 3, 64}, {4096, 0, 9, 3, 64}, {8192, 2048, 9, 3, 64}, {8192, 0, 9, 3, 64}, {4096, 1024, 4, 4, 128}};
  }
  if (!as_json) {
    std::printf("tokens group heads size |  forward  LibTorch  ratio | backward LibTorch  ratio |   both | ms, median of %d\n", repeats);
  }
  bool is_good = true;
  for (const Shape& s : shapes) is_good = run_shape(s, repeats, as_json) && is_good;
  return is_good ? 0 : 1;
}

}  // namespace
}  // namespace longlora::test

int main(int argc, char** argv) { return longlora::test::run(argc, argv); }
