// Times the kernels that are bound by memory, at a 7B model's sizes (h 4096, f 11008, V 32000) and 8,192 and 102,400 tokens, in GB/s of
// what they must move at least (docs/gpu.md). `copy` is the device's own copy, the rate they are measured against.
//   bench_bandwidth [--quick]
// Each kernel's result is compared with fp64 on sampled rows of the timed shape before it is timed.
#include <cmath>

#include "bench/bench.h"
#include "longlora/kernels/cast.h"
#include "longlora/kernels/cross_entropy.h"
#include "longlora/kernels/embedding.h"
#include "longlora/kernels/optimizer.h"
#include "longlora/kernels/rms_norm.h"
#include "longlora/kernels/rope.h"
#include "longlora/kernels/swiglu.h"

namespace longlora::bench {
namespace {

using namespace longlora::kernels;
constexpr int64_t kHidden = 4096, kMlp = 11008, kVocabulary = 32000, kHeads = 32, kHeadSize = 128;
constexpr auto kBf16 = ElementType::bf16;
constexpr double kTolerance = 8e-3;  // one rounding to bf16 of sums of rounded inputs; F norm over whole rows

using Values = std::vector<double>;
std::vector<int64_t> sampled(int64_t rows) { return {0, 1, rows / 3, rows / 2 + 1, rows - 1}; }
Values row_of(const Buffer& b, int64_t row, int64_t width, ElementType type = kBf16) {
  return read_values(b.at(row * width * element_bytes(type)), width, type);
}

struct Bench {
  Clock& clock;
  int64_t tokens;
  std::string shape() const { return "T=" + std::to_string(tokens); }
  void row(const char* op, double error, double bytes, const std::function<void()>& work, const std::string& more = "") const {
    if (!(error <= kTolerance))
      return print_failure(op, shape() + more, "relative error " + std::to_string(error) + " against fp64; not timed");
    print_row(op, shape() + more, "fused", clock.time(work), "gbs", bytes);
  }
};

struct Filled : Buffer {
  Filled(int64_t count, ElementType type, uint64_t seed, float deviation = 1) : Buffer(count * element_bytes(type)) {
    fill_normal(at(), count, type, seed, deviation);
  }
};

void copy(const Bench& b) {
  const Filled from(b.tokens * kHidden, kBf16, 1);
  const Buffer to(from.bytes());
  const auto size = static_cast<size_t>(from.bytes());
  const auto work = [&] { require(cudaMemcpyAsync(to.at(), from.at(), size, cudaMemcpyDeviceToDevice, nullptr), "copy"); };
  b.row("copy", 0, 2.0 * static_cast<double>(from.bytes()), work);
}

Values normed(const Values& x, const Values& w, double eps) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  const double rstd = 1 / std::sqrt(sum / static_cast<double>(x.size()) + eps);
  Values y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * rstd * w[i];
  return y;
}

void rms_norms(const Bench& b) {
  const RmsNorm p{kBf16, b.tokens, kHidden, 1e-5f};
  const Filled x(b.tokens * kHidden, kBf16, 1), branch(b.tokens * kHidden, kBf16, 2), w(kHidden, kBf16, 3),
      d_y(b.tokens * kHidden, kBf16, 4);
  const Buffer sum(x.bytes()), y(x.bytes()), workspace(std::max<int64_t>(rms_norm_backward_workspace_bytes(p), 16)), d_w(kHidden * 4);
  const auto rows = [](const Buffer& of) { return Rows{of.at(), kHidden}; };
  const double values = static_cast<double>(b.tokens * kHidden);
  const Values weight = row_of(w, 0, kHidden);
  double error = 0;

  const auto forward = [&] { require(rms_norm_forward(p, rows(x), w.at(), rows(y), nullptr), "rms_norm"); };
  forward();
  for (const int64_t r : sampled(b.tokens))
    error = std::max(error, relative_error(row_of(y, r, kHidden), normed(row_of(x, r, kHidden), weight, 1e-5)));
  b.row("rms_norm_forward", error, 4 * values, forward);

  const auto residual = [&] {
    require(rms_norm_residual_forward(p, rows(x), rows(branch), w.at(), rows(sum), rows(y), nullptr), "rms_norm_residual");
  };
  residual(), error = 0;
  for (const int64_t r : sampled(b.tokens)) {
    Values added = row_of(x, r, kHidden);
    const Values other = row_of(branch, r, kHidden);
    for (size_t i = 0; i < added.size(); ++i) added[i] += other[i];
    error = std::max(
        {error, relative_error(row_of(sum, r, kHidden), added), relative_error(row_of(y, r, kHidden), normed(added, weight, 1e-5))});
  }
  b.row("rms_norm_residual_forward", error, 8 * values, residual);

  const auto backward = [&](float* d_weight) {
    require(rms_norm_backward(p, rows(x), w.at(), rows(d_y), rows(sum), true, d_weight, workspace.at(), nullptr), "rms_norm_backward");
  };
  require(cudaMemset(sum.at(), 0, static_cast<size_t>(sum.bytes())), "zero");
  require(cudaMemset(d_w.at(), 0, static_cast<size_t>(d_w.bytes())), "zero");
  backward(d_w.at<float>()), error = 0;
  for (const int64_t r : sampled(b.tokens)) {
    const Values in = row_of(x, r, kHidden), g = row_of(d_y, r, kHidden), ones(kHidden, 1.0), hat = normed(in, ones, 1e-5);
    double squares = 0, dot = 0;
    for (size_t i = 0; i < in.size(); ++i) squares += in[i] * in[i], dot += weight[i] * g[i] * hat[i];
    const double rstd = 1 / std::sqrt(squares / kHidden + 1e-5);
    Values expected(in.size());
    for (size_t i = 0; i < in.size(); ++i) expected[i] = (weight[i] * g[i] - hat[i] * dot / kHidden) * rstd;
    error = std::max(error, relative_error(row_of(sum, r, kHidden), expected));
  }
  b.row(
      "rms_norm_backward", error, 8 * values, [&] { backward(d_w.at<float>()); }, " trainable");
  b.row(
      "rms_norm_backward", error, 8 * values, [&] { backward(nullptr); }, " frozen");
}

void ropes(const Bench& b) {
  const int64_t width = kHeads * kHeadSize;
  const Filled x(b.tokens * width, kBf16, 1);
  const Buffer y(x.bytes()), table(b.tokens * kHeadSize * 4), positions(b.tokens * 4);
  std::vector<float> angles(static_cast<size_t>(b.tokens * kHeadSize));
  std::vector<int32_t> order(static_cast<size_t>(b.tokens));
  for (int64_t t = 0; t < b.tokens; ++t) {
    order[static_cast<size_t>(t)] = static_cast<int32_t>(t);
    for (int64_t i = 0; i < kHeadSize / 2; ++i) {
      const double angle = static_cast<double>(t) * std::pow(10000.0, -2.0 * static_cast<double>(i) / kHeadSize);
      angles[static_cast<size_t>(t * kHeadSize + i)] = static_cast<float>(std::cos(angle));
      angles[static_cast<size_t>(t * kHeadSize + kHeadSize / 2 + i)] = static_cast<float>(std::sin(angle));
    }
  }
  write(table.at(), angles), write(positions.at(), order);
  const Rope p{kBf16, b.tokens, kHeads, kHeadSize, width, kHeadSize, false};
  require(rope_copy(p, x.at(), y.at(), width, kHeadSize, table.at<float>(), positions.at<int32_t>(), nullptr), "rope");
  double error = 0;
  for (const int64_t r : sampled(b.tokens)) {
    const Values in = row_of(x, r, width);
    Values expected(in.size());
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t i = 0; i < kHeadSize / 2; ++i) {
        const double c = angles[static_cast<size_t>(r * kHeadSize + i)], s = angles[static_cast<size_t>(r * kHeadSize + kHeadSize / 2 + i)];
        const auto low = static_cast<size_t>(h * kHeadSize + i), high = low + kHeadSize / 2;
        expected[low] = in[low] * c - in[high] * s, expected[high] = in[high] * c + in[low] * s;
      }
    error = std::max(error, relative_error(row_of(y, r, width), expected));
  }
  const auto in_place = [&] { require(rope(p, y.at(), table.at<float>(), positions.at<int32_t>(), nullptr), "rope"); };
  b.row("rope", error, 4.0 * static_cast<double>(b.tokens * width) + 4.0 * static_cast<double>(b.tokens * kHeadSize), in_place);
}

double silu(double g) { return g / (1 + std::exp(-g)); }

void swiglus(const Bench& b) {
  const Filled gate_up(b.tokens * 2 * kMlp, kBf16, 1), d_m(b.tokens * kMlp, kBf16, 2);
  const Buffer m(b.tokens * kMlp * 2);
  const Swiglu p{kBf16, b.tokens, kMlp};
  const double values = static_cast<double>(b.tokens * kMlp);
  const auto forward = [&] { require(swiglu_forward(p, Rows{gate_up.at(), 2 * kMlp}, Rows{m.at(), kMlp}, nullptr), "swiglu"); };
  forward();
  double error = 0;
  std::vector<Values> inputs;
  for (const int64_t r : sampled(b.tokens)) {
    inputs.push_back(row_of(gate_up, r, 2 * kMlp));
    Values expected(kMlp);
    for (size_t i = 0; i < kMlp; ++i) expected[i] = silu(inputs.back()[i]) * inputs.back()[kMlp + i];
    error = std::max(error, relative_error(row_of(m, r, kMlp), expected));
  }
  b.row("swiglu_forward", error, 6 * values, forward);

  const auto backward = [&] {
    require(swiglu_backward(p, Rows{gate_up.at(), 2 * kMlp}, Rows{d_m.at(), kMlp}, nullptr), "swiglu_backward");
  };
  backward(), error = 0;
  for (size_t n = 0; n < inputs.size(); ++n) {
    const int64_t r = sampled(b.tokens)[n];
    const Values g = row_of(d_m, r, kMlp);
    Values expected(2 * kMlp);
    for (size_t i = 0; i < kMlp; ++i) {
      const double s = 1 / (1 + std::exp(-inputs[n][i])), gate = inputs[n][i], up = inputs[n][kMlp + i];
      expected[i] = g[i] * up * (s + gate * s * (1 - s)), expected[kMlp + i] = g[i] * gate * s;
    }
    error = std::max(error, relative_error(row_of(gate_up, r, 2 * kMlp), expected));
  }
  b.row("swiglu_backward", error, 10 * values, backward);
}

/// A chunk of at most 4,096 rows (500 MiB of logits), as the head works.
void cross_entropies(const Bench& b) {
  const int64_t rows = std::min<int64_t>(b.tokens, 4096);
  const Filled logits(rows * kVocabulary, ElementType::fp32, 1, 3);
  const Buffer labels(rows * 4), nll(rows * 4);
  std::vector<int32_t> targets(static_cast<size_t>(rows));
  for (size_t r = 0; r < targets.size(); ++r) targets[r] = static_cast<int32_t>(r * 7919 % kVocabulary);
  write(labels.at(), targets);
  const CrossEntropy p{rows, kVocabulary, ElementType::fp32};
  const Rows view{logits.at(), kVocabulary};
  const auto forward = [&] { require(cross_entropy(p, view, labels.at<int32_t>(), nll.at<float>(), nullptr), "cross_entropy"); };
  forward();
  const Values seen = read_values(nll.at(), rows, ElementType::fp32);
  double error = 0;
  std::vector<Values> gradients;
  for (const int64_t r : sampled(rows)) {
    Values x = row_of(logits, r, kVocabulary, ElementType::fp32);
    double sum = 0;
    for (const double v : x) sum += std::exp(v);  // |v| < 20
    const auto label = static_cast<size_t>(targets[static_cast<size_t>(r)]);
    error = std::max(error, std::abs(seen[static_cast<size_t>(r)] - (std::log(sum) - x[label])));
    for (double& v : x) v = std::exp(v) / sum;
    x[label] -= 1;
    gradients.push_back(x);
  }
  const double values = static_cast<double>(rows * kVocabulary);
  const std::string more = " rows=" + std::to_string(rows);
  b.row("cross_entropy_forward", error, 4 * values, forward, more);

  const auto backward = [&] {
    require(cross_entropy_backward(p, view, labels.at<int32_t>(), 1, nll.at<float>(), kBf16, nullptr), "cross_entropy_backward");
  };
  backward(), error = 0;
  const int64_t stride = in_place_stride(ElementType::fp32, kVocabulary, kBf16);
  for (size_t n = 0; n < gradients.size(); ++n) {
    const int64_t r = sampled(rows)[n];
    error = std::max(error, relative_error(read_values(logits.at(r * stride * 2), kVocabulary, kBf16), gradients[n]));
  }
  // least traffic: the logits are read once from memory, the second time from the L2 cache, and the gradient is written
  b.row("cross_entropy_backward", error, 6 * values, backward, more);
}

void embeddings(const Bench& b) {
  std::vector<int32_t> ids(static_cast<size_t>(b.tokens));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>((i * i * 2654435761u >> 7) % 20000);
  const TokenRows sorted = sort_tokens(ids);
  const auto unique = static_cast<int64_t>(sorted.unique_ids.size());
  const Buffer unique_ids(unique * 4), offsets((unique + 1) * 4), positions(b.tokens * 4), d_weight(kVocabulary * kHidden * 4);
  write(unique_ids.at(), sorted.unique_ids), write(offsets.at(), sorted.offsets), write(positions.at(), sorted.positions);
  require(cudaMemset(d_weight.at(), 0, static_cast<size_t>(d_weight.bytes())), "zero");
  const Filled d_x(b.tokens * kHidden, kBf16, 1);
  const auto work = [&] {
    require(embedding_backward(kBf16, unique, kHidden, unique_ids.at<int32_t>(), offsets.at<int32_t>(), positions.at<int32_t>(),
                               Rows{d_x.at(), kHidden}, d_weight.at<float>(), nullptr),
            "embedding_backward");
  };
  work();
  double error = 0;
  for (const int64_t n : sampled(unique)) {
    Values expected(kHidden);
    for (int32_t i = sorted.offsets[static_cast<size_t>(n)]; i < sorted.offsets[static_cast<size_t>(n) + 1]; ++i) {
      const Values row = row_of(d_x, sorted.positions[static_cast<size_t>(i)], kHidden);
      for (size_t k = 0; k < row.size(); ++k) expected[k] += row[k];
    }
    error =
        std::max(error, relative_error(row_of(d_weight, sorted.unique_ids[static_cast<size_t>(n)], kHidden, ElementType::fp32), expected));
  }
  b.row("embedding_backward", error, 2.0 * static_cast<double>(b.tokens * kHidden) + 8.0 * static_cast<double>(unique * kHidden), work,
        " touched=" + std::to_string(unique));
}

/// A seventh of a 7B model's parameters, bf16 copy, gradient cleared: 34 bytes each.
void optimizers(const Bench& b) {
  const int64_t count = (b.tokens > 10000 ? int64_t{1} << 30 : int64_t{1} << 28);
  const Filled master(count, ElementType::fp32, 1), grad(count, ElementType::fp32, 2);
  const Buffer m(count * 4), v(count * 4), half(count * 2), blocks(norm_blocks(count) * 8), norm(8), control(sizeof(UpdateControl));
  for (const Buffer* zero : {&m, &v}) require(cudaMemset(zero->at(), 0, static_cast<size_t>(zero->bytes())), "zero");
  const std::string more = " parameters=" + std::to_string(count);
  const auto norms = [&] {
    require(sum_of_squares(grad.at<float>(), count, blocks.at<double>(), nullptr), "sum_of_squares");
    require(gradient_norm(blocks.at<double>(), norm_blocks(count), norm.at<double>(), nullptr), "gradient_norm");
  };
  norms();
  const double expected = std::sqrt(static_cast<double>(count));  // of unit normals
  const double error = std::abs(read<double>(norm.at(), 1)[0] / expected - 1);
  b.row("gradient_norm", error, 4.0 * static_cast<double>(count), norms, more);

  require(clip_control(norm.at<double>(), 1.0, control.at<UpdateControl>(), nullptr), "clip_control");
  const Adamw p{0.9f, 0.95f, 1 - 1e-5f, 1e-3f / (1 - 0.9f), 1 / std::sqrt(1 - 0.95f), 1e-8f};
  const Values x = read_values(master.at(), 4096, ElementType::fp32), g = read_values(grad.at(), 4096, ElementType::fp32);
  const auto work = [&] {
    require(adamw(p, count, master.at<float>(), grad.at<float>(), m.at<float>(), v.at<float>(), half.at(), kBf16, true,
                  control.at<UpdateControl>(), nullptr),
            "adamw");
  };
  const double clip = static_cast<double>(read<UpdateControl>(control.at(), 1)[0].clip);
  work();
  Values updated(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double c = clip * g[i], m1 = (1 - static_cast<double>(p.beta1)) * c, v1 = (1 - static_cast<double>(p.beta2)) * c * c;
    updated[i] =
        static_cast<double>(p.keep) * x[i] -
        static_cast<double>(p.step_size) * m1 / (std::sqrt(v1) * static_cast<double>(p.root_correction) + static_cast<double>(p.eps));
  }
  b.row("adamw", relative_error(read_values(master.at(), 4096, ElementType::fp32), updated), 34.0 * static_cast<double>(count), work, more);
}

}  // namespace
}  // namespace longlora::bench

int main(int argc, char** argv) {
  using namespace longlora::bench;
  const bool quick = argc == 2 && std::string(argv[1]) == "--quick";
  if (argc > 2 || (argc == 2 && !quick)) stop("usage: bench_bandwidth [--quick]");
  Clock clock;
  for (const int64_t tokens : {int64_t{8192}, int64_t{102400}}) {
    if (quick && tokens > 10000) break;
    const Bench b{clock, tokens};
    for (const auto& part : {copy, rms_norms, ropes, swiglus, cross_entropies, embeddings, optimizers}) part(b);
  }
  return anything_failed() ? 1 : 0;
}
