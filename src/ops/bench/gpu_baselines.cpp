// What LibTorch offers for shifted sparse attention on a GPU, timed beside our kernels; and the rates of the machine they are measured by.
//   bench_gpu_baselines machine              GEMM 8192^3 in bf16 on random data, copy of 4 GiB
//   bench_gpu_baselines attention [--quick]  cuDNN on strided views, FlashAttention-2 the reference way, full causal attention
// One JSON line a result on standard output; scripts/gpu_check.sh keeps them. FLOPs are those of the exact pairs, whatever a baseline
// computes. Every baseline must agree with our kernel (relative difference of the outputs, both bf16) or it is not timed.
#include <ATen/ATen.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <c10/core/GradMode.h>
#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <string>
#include <type_traits>
#include <vector>

#include "longlora/kernels/s2_attention.h"
#include "longlora/kernels/s2_layout.h"

namespace longlora {
namespace {

using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

// The wheel's headers are the authority: another LibTorch with other signatures must fail here, not at run time.
static_assert(std::is_same_v<decltype(at::_ops::_flash_attention_forward::call),
                             std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>(
                                 const Tensor&, const Tensor&, const Tensor&, const MaybeTensor&, const MaybeTensor&, c10::SymInt,
                                 c10::SymInt, double, bool, bool, std::optional<double>, std::optional<c10::SymInt>,
                                 std::optional<c10::SymInt>, const MaybeTensor&, const MaybeTensor&)>);
static_assert(std::is_same_v<decltype(at::_ops::_flash_attention_backward::call),
                             std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                                const Tensor&, const Tensor&, const Tensor&, c10::SymInt, c10::SymInt,
                                                                double, bool, const Tensor&, const Tensor&, std::optional<double>,
                                                                std::optional<c10::SymInt>, std::optional<c10::SymInt>)>);
static_assert(
    std::is_same_v<decltype(at::_ops::_scaled_dot_product_cudnn_attention::call),
                   std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>(
                       const Tensor&, const Tensor&, const Tensor&, const MaybeTensor&, bool, double, bool, bool, std::optional<double>)>);
static_assert(
    std::is_same_v<decltype(at::_ops::_scaled_dot_product_cudnn_attention_backward::call),
                   std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                                      const Tensor&, c10::SymInt, c10::SymInt, double, bool, std::optional<double>)>);

[[noreturn]] void stop(const std::string& sentence) {
  fmt::print(stderr, "bench_gpu_baselines: {}\n", sentence);
  std::exit(1);
}
void require(cudaError_t e, const char* what) {
  if (e != cudaSuccess) stop(fmt::format("{}: {}", what, cudaGetErrorString(e)));
}
void require(kernels::Launch l, const char* what) {
  if (!l.ok()) stop(fmt::format("{}: {} {}", what, l.argument, l.problem));
}

struct Times {
  double median_us, p10_us, p90_us;
  size_t repetitions;
};

/// The clock of kernels/bench/bench.h, on the stream that LibTorch uses (the default one).
Times time_of(const std::function<void()>& work) {
  static const Tensor flush = at::empty({256 << 20}, at::TensorOptions(at::kCUDA).dtype(at::kByte));
  static cudaEvent_t begin = nullptr, end = nullptr;
  if (begin == nullptr) require(cudaEventCreate(&begin), "event"), require(cudaEventCreate(&end), "event");
  const auto once = [&] {
    flush.fill_(0);
    require(cudaEventRecord(begin, nullptr), "event");
    work();
    require(cudaEventRecord(end, nullptr), "event");
    require(cudaEventSynchronize(end), "timed work");
    float ms = 0;
    require(cudaEventElapsedTime(&ms, begin, end), "event");
    return 1e3 * static_cast<double>(ms);
  };
  for (int i = 0; i < 3; ++i) once();
  std::vector<double> us;
  double total = 0;
  while (us.size() < 20 && (total < 0.5e6 || us.size() < 3)) us.push_back(once()), total += us.back();
  std::sort(us.begin(), us.end());
  const auto at = [&](double part) { return us[static_cast<size_t>(part * static_cast<double>(us.size() - 1) + 0.5)]; };
  return {at(0.5), at(0.1), at(0.9), us.size()};
}

void print_row(const char* op, const std::string& shape, const char* variant, bool deterministic, bool baseline, const Times& t,
               const char* unit, double work) {
  const double rate = work / t.median_us * (std::string_view(unit) == "tflops" ? 1e-6 : 1e-3);
  fmt::print(
      "{{\"op\": \"{}\", \"shape\": \"{}\", \"variant\": \"{}\", \"deterministic\": {}, \"baseline\": {}, \"repetitions\": {}, "
      "\"median_us\": "
      "{:.2f}, \"p10_us\": {:.2f}, \"p90_us\": {:.2f}, \"{}\": {:.2f}}}\n",
      op, shape, variant, deterministic, baseline, t.repetitions, t.median_us, t.p10_us, t.p90_us, unit, rate);
  std::fflush(stdout);
}
void print_failure(const char* op, const std::string& shape, const char* variant, std::string reason) {
  std::replace_if(
      reason.begin(), reason.end(), [](char c) { return c == '"' || c == '\\' || static_cast<unsigned char>(c) < 32; }, ' ');
  fmt::print("{{\"op\": \"{}\", \"shape\": \"{}\", \"variant\": \"{}\", \"baseline\": true, \"failed\": \"{}\"}}\n", op, shape, variant,
             reason.substr(0, 300));
  std::fflush(stdout);
}

at::TensorOptions bf16() { return at::TensorOptions(at::kCUDA).dtype(at::kBFloat16); }

void machine() {
  const int64_t n = 8192;
  const Tensor a = at::randn({n, n}, bf16()), b = at::randn({n, n}, bf16());
  Tensor c = at::empty({n, n}, bf16());
  print_row("gemm", "8192x8192x8192", "cublas", true, true, time_of([&] { at::mm_out(c, a, b); }), "tflops", 2.0 * n * n * n);
  const Tensor from = at::empty({int64_t{4} << 30}, at::TensorOptions(at::kCUDA).dtype(at::kByte)).fill_(1);
  Tensor to = at::empty_like(from);
  print_row("copy", "4 GiB", "cuda", true, true, time_of([&] { to.copy_(from); }), "gbs", 2.0 * static_cast<double>(from.numel()));
}

struct Case {
  int64_t tokens, group, heads, head_size;
  bool full = false;
  std::string text() const {
    return full ? fmt::format("T={} full H={} K={} d={}", tokens, heads, heads, head_size)
                : fmt::format("T={} g={} H={} K={} d={}", tokens, group, heads, heads, head_size);
  }
  double flops() const {  // of one product over the exact pairs
    const double plain = static_cast<double>(allowed_pairs(tokens, group, Shift::none));
    const double shifted = static_cast<double>(allowed_pairs(tokens, group, Shift::half_group));
    return 2 * static_cast<double>(head_size) * (plain * static_cast<double>(heads / 2) + shifted * static_cast<double>(heads - heads / 2));
  }
};

/// q, k, v [T, H, D] as slices of packed rows, o and the gradients alike.
struct Inputs {
  Tensor qkv, q, k, v, o, d_o, d_qkv;
};
Inputs make_inputs(const Case& c) {
  Inputs in;
  in.qkv = at::randn({c.tokens, 3, c.heads, c.head_size}, bf16());
  in.q = in.qkv.select(1, 0), in.k = in.qkv.select(1, 1), in.v = in.qkv.select(1, 2);
  in.o = at::empty({c.tokens, c.heads, c.head_size}, bf16());
  in.d_o = at::randn_like(in.o);
  in.d_qkv = at::empty_like(in.qkv);
  return in;
}

void our_forward(const Case& c, const Inputs& in, const Tensor& lse) {
  kernels::S2Shape s;
  s.rows = 1, s.tokens = c.tokens, s.group = c.full ? 2 * c.tokens : c.group, s.num_heads = s.num_kv_heads = c.heads,
  s.num_plain = c.heads / 2;
  s.head_size = c.head_size, s.q_end = s.k_end = c.tokens;
  const auto view = [](const Tensor& t) { return kernels::HeadView{t.data_ptr(), 0, t.stride(0), t.stride(1)}; };
  require(kernels::s2_attention_forward(s, view(in.q), view(in.k), view(in.v), view(in.o), {lse.data_ptr<float>(), 0, c.tokens}, nullptr),
          "ours");
}

/// A way to compute the operator: forward fills `o`, backward `d_qkv`. `assemble` adds the copies that put results where the model wants
/// them.
class Baseline {
 public:
  virtual ~Baseline() = default;
  virtual void forward(bool assemble) = 0;
  virtual void backward(bool assemble) = 0;
};

/// cuDNN on views without copies: heads [first, last), `count` segments of `length` tokens, `step` tokens apart, from `begin` on.
struct Piece {
  int64_t first, last, begin, count, length, step;
  Tensor of(const Tensor& x) const {  // [T, H, D] -> [count, heads, length, D]
    const Tensor h = x.narrow(1, first, last - first);
    return h.as_strided({count, last - first, length, x.size(2)}, {step * x.stride(0), x.stride(1), x.stride(0), 1},
                        h.storage_offset() + begin * x.stride(0));
  }
};

class CudnnViews : public Baseline {
 public:
  CudnnViews(const Case& c, const Inputs& in) : in_(in) {
    const int64_t half = c.heads / 2, g = c.group, b = g / 2, T = c.tokens;
    if (c.full) {
      pieces_ = {{0, c.heads, 0, 1, T, T}};
    } else {
      pieces_ = {{0, half, 0, T / g, g, g}, {half, c.heads, b, T / g - 1, g, g}, {half, c.heads, 0, 2, b, T - b}};
    }
    results_.resize(pieces_.size());
  }
  void forward(bool assemble) override {
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const Piece& p = pieces_[i];
      results_[i] = at::_scaled_dot_product_cudnn_attention(p.of(in_.q), p.of(in_.k), p.of(in_.v), {}, true, 0.0, true, false);
      if (assemble) p.of(in_.o).copy_(std::get<0>(results_[i]));
    }
  }
  void backward(bool assemble) override {
    for (size_t i = 0; i < pieces_.size(); ++i) {
      const Piece& p = pieces_[i];
      const auto& [o, lse, cum_q, cum_k, max_q, max_k, seed, offset, mask] = results_[i];
      const auto [d_q, d_k, d_v] = at::_scaled_dot_product_cudnn_attention_backward_symint(
          p.of(in_.d_o), p.of(in_.q), p.of(in_.k), p.of(in_.v), o, lse, seed, offset, Tensor(), cum_q, cum_k, max_q, max_k, 0.0, true);
      if (!assemble) continue;
      p.of(in_.d_qkv.select(1, 0)).copy_(d_q), p.of(in_.d_qkv.select(1, 1)).copy_(d_k), p.of(in_.d_qkv.select(1, 2)).copy_(d_v);
    }
  }

 private:
  Inputs in_;
  std::vector<Piece> pieces_;
  std::vector<std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>> results_;
};

/// FlashAttention-2 as the LongLoRA reference implementation calls it: the two halves of the heads become two rows of a batch, q, k and v
/// are stacked, "unpadded" by index, and put back the same way; segments are cumulative lengths on the device.
class FlashReference : public Baseline {
 public:
  FlashReference(const Case& c, const Inputs& in) : c_(c), in_(in) {
    std::vector<int32_t> edges;
    for (int64_t t = 0; t < c.tokens; t += c.group) edges.push_back(static_cast<int32_t>(t));
    edges.push_back(static_cast<int32_t>(c.tokens));
    for (int64_t t = c.group / 2; t < c.tokens; t += c.group) edges.push_back(static_cast<int32_t>(c.tokens + t));
    edges.push_back(static_cast<int32_t>(2 * c.tokens));
    edges_ = at::tensor(edges, at::TensorOptions().dtype(at::kInt)).to(at::kCUDA);
    rows_ = at::arange(2 * c.tokens, at::TensorOptions(at::kCUDA).dtype(at::kLong));
    // what the reference gets from its projections after RoPE: [H, T, D] each
    q_ = in.q.transpose(0, 1).contiguous(), k_ = in.k.transpose(0, 1).contiguous(), v_ = in.v.transpose(0, 1).contiguous();
    pack();
  }
  void forward(bool assemble) override {
    if (assemble) pack();
    result_ = at::_flash_attention_forward(packed_.select(1, 0), packed_.select(1, 1), packed_.select(1, 2), edges_, edges_, c_.group,
                                           c_.group, 0.0, true, false);
    if (assemble) in_.o = unpack(std::get<0>(result_)).contiguous();
  }
  void backward(bool assemble) override {
    if (assemble || !d_packed_.defined()) d_packed_ = split_halves(in_.d_o.unsqueeze(1)).squeeze(1).index_select(0, rows_);
    const auto& [o, lse, rng, unused, mask] = result_;
    const auto [d_q, d_k, d_v] = at::_flash_attention_backward(d_packed_, packed_.select(1, 0), packed_.select(1, 1), packed_.select(1, 2),
                                                               o, lse, edges_, edges_, c_.group, c_.group, 0.0, true, rng, unused);
    if (!assemble) return;
    const Tensor padded = at::zeros_like(packed_).index_copy_(0, rows_, at::stack({d_q, d_k, d_v}, 1));
    const Tensor joined = join_halves(padded);  // [T, 3, H, D]
    for (int64_t i = 0; i < 3; ++i) in_.d_qkv.select(1, i).copy_(joined.select(1, i));
  }
  const Tensor& output() const { return in_.o; }

 private:
  Tensor split_halves(const Tensor& x) const {  // [T, n, H, D] -> [2T, n, H/2, D]
    const int64_t n = x.size(1);
    return x.reshape({c_.tokens, n, 2, c_.heads / 2, c_.head_size})
        .permute({2, 0, 1, 3, 4})
        .reshape({2 * c_.tokens, n, c_.heads / 2, c_.head_size});
  }
  Tensor join_halves(const Tensor& x) const {
    const int64_t n = x.size(1);
    return x.reshape({2, c_.tokens, n, c_.heads / 2, c_.head_size})
        .permute({1, 2, 0, 3, 4})
        .reshape({c_.tokens, n, c_.heads, c_.head_size});
  }
  void pack() {
    const Tensor stacked = at::stack({q_, k_, v_}, 1).permute({2, 1, 0, 3});  // [T, 3, H, D]
    packed_ = split_halves(stacked).index_select(0, rows_);
  }
  Tensor unpack(const Tensor& o) const {
    const Tensor padded = at::zeros_like(o).index_copy_(0, rows_, o);
    return join_halves(padded.unsqueeze(1)).squeeze(1);
  }
  Case c_;
  Inputs in_;
  Tensor q_, k_, v_, edges_, rows_, packed_, d_packed_;
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> result_;
};

class FlashFull : public Baseline {
 public:
  FlashFull(const Case& c, const Inputs& in) : c_(c), in_(in) {}
  void forward(bool assemble) override {
    result_ = at::_flash_attention_forward(row(in_.q), row(in_.k), row(in_.v), {}, {}, c_.tokens, c_.tokens, 0.0, true, false);
    if (assemble) row(in_.o).copy_(std::get<0>(result_));
  }
  void backward(bool assemble) override {
    const auto& [o, lse, rng, unused, mask] = result_;
    const auto [d_q, d_k, d_v] = at::_flash_attention_backward(row(in_.d_o), row(in_.q), row(in_.k), row(in_.v), o, lse, Tensor(), Tensor(),
                                                               c_.tokens, c_.tokens, 0.0, true, rng, unused);
    if (!assemble) return;
    in_.d_qkv.select(1, 0).copy_(d_q[0]), in_.d_qkv.select(1, 1).copy_(d_k[0]), in_.d_qkv.select(1, 2).copy_(d_v[0]);
  }

 private:
  static Tensor row(const Tensor& x) { return x.unsqueeze(0); }  // [1, T, H, D]
  Case c_;
  Inputs in_;
  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> result_;
};

double difference(const Tensor& x, const Tensor& reference) {
  const Tensor r = reference.to(at::kFloat);
  return (x.to(at::kFloat) - r).norm().item<double>() / r.norm().item<double>();
}

void time_baseline(const Case& c, const char* name, Baseline& b, const std::function<Tensor()>& output, const Tensor& ours) {
  try {
    b.forward(true);
    if (const double d = difference(output(), ours); !(d < 1e-2))
      return print_failure("s2_attention_forward", c.text(), name, fmt::format("differs from our kernel by {:.3g}; not timed", d));
    const double flops = c.flops();
    const std::string with = std::string(name) + " + copies";
    print_row("s2_attention_forward", c.text(), name, true, true, time_of([&] { b.forward(false); }), "tflops", 2 * flops);
    print_row("s2_attention_forward", c.text(), with.c_str(), true, true, time_of([&] { b.forward(true); }), "tflops", 2 * flops);
    print_row("s2_attention_backward", c.text(), name, false, true, time_of([&] { b.backward(false); }), "tflops", 5 * flops);
    print_row("s2_attention_backward", c.text(), with.c_str(), false, true, time_of([&] { b.backward(true); }), "tflops", 5 * flops);
  } catch (const std::exception& e) {
    print_failure("s2_attention_forward", c.text(), name, e.what());
  }
}

void attention(bool quick) {
  std::vector<Case> cases;
  for (const int64_t g : {1024, 2048, 4096, 8192, 25600})
    if (!quick || g <= 2048) cases.push_back({4 * g, g, 32, 128});
  for (const int64_t t : {8192, 32768})
    if (!quick) cases.push_back({t, 2 * t, 32, 128, true});
  for (const Case& c : cases) {
    const Inputs in = make_inputs(c);
    const Tensor lse = at::empty({c.heads, c.tokens}, at::TensorOptions(at::kCUDA).dtype(at::kFloat));
    our_forward(c, in, lse);
    const Tensor ours = in.o.clone();
    CudnnViews cudnn(c, in);
    time_baseline(
        c, c.full ? "cuDNN" : "cuDNN views", cudnn, [&] { return in.o; }, ours);
    if (c.full) {
      FlashFull flash(c, in);
      time_baseline(
          c, "FlashAttention-2", flash, [&] { return in.o; }, ours);
    } else {
      FlashReference flash(c, in);
      time_baseline(
          c, "FlashAttention-2 varlen", flash, [&] { return flash.output(); }, ours);
    }
  }
}

}  // namespace
}  // namespace longlora

int main(int argc, char** argv) {
  const std::string command = argc > 1 ? argv[1] : "";
  const bool quick = argc == 3 && std::string(argv[2]) == "--quick";
  if ((command != "machine" && command != "attention") || argc > 3 || (argc == 3 && (!quick || command == "machine")))
    longlora::stop("usage: bench_gpu_baselines machine | attention [--quick]");
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) longlora::stop("there is no GPU here, or no driver");
  const c10::NoGradGuard no_grad;
  if (command == "machine")
    longlora::machine();
  else
    longlora::attention(quick);
  return 0;
}
