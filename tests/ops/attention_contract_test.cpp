// The call contract: threads and batches change no bit, aliases, windows, guard bytes, no copies, no large scratch.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "attention_case.h"
#include "longlora/ops/memory_counter.h"

namespace longlora::test {
namespace {

struct ThreadGuard {
  int before = at::get_num_threads();
  ~ThreadGuard() { at::set_num_threads(before); }
};

void expect_same(const AttentionOutputs& a, const AttentionOutputs& b) {
  EXPECT_TRUE(same_bits(a.o, b.o));
  EXPECT_TRUE(same_bits(a.lse, b.lse));
  EXPECT_TRUE(same_bits(a.d_q, b.d_q));
  EXPECT_TRUE(same_bits(a.d_k, b.d_k));
  EXPECT_TRUE(same_bits(a.d_v, b.d_v));
}

const AttentionCase kCases[] = {{2, 700, 9, 3, 64, 200, 4},
                                {1, 1100, 3, 1, 64, 0, 0, AttentionKind::full},
                                {1, 512, 4, 2, 80, 128, 2, AttentionKind::s2_wrap},
                                {1, 300, 2, 2, 128, 96, 1, AttentionKind::s2, at::kBFloat16}};

TEST(AttentionContract, ThreadsChangeNoBit) {
  const ThreadGuard guard;
  for (const AttentionCase& c : kCases) {
    const AttentionInputs in(c);
    at::set_num_threads(1);
    const AttentionOutputs one = run_attention(c, in);
    for (const int threads : {2, 3, 3, 8}) {
      at::set_num_threads(threads);
      expect_same(one, run_attention(c, in));
    }
  }
}

TEST(AttentionContract, BatchEqualsItsRows) {  // documents of different lengths stand for ragged rows
  for (AttentionCase c : {AttentionCase{3, 333, 9, 3, 64, 100, 4}, {3, 200, 2, 1, 8, 64, 1, AttentionKind::s2, at::kBFloat16}}) {
    c.documents = {{0, 17}, {0, 199}, {}};
    const AttentionInputs in(c);
    const AttentionOutputs all = run_attention(c, in);
    for (int64_t b = 0; b < c.B; ++b) {
      const auto row = [&](const at::Tensor& x) { return x.narrow(0, b, 1); };
      AttentionCase one = c;
      one.documents = {c.documents[static_cast<size_t>(b)]};
      expect_same({row(all.o), row(all.lse), row(all.d_q), row(all.d_k), row(all.d_v)},
                  run_attention(one.layout(), row(in.q), row(in.k), row(in.v), row(in.d_o)));
    }
  }
}

TEST(AttentionContract, RaggedSftBatchEqualsItsRows) {  // lengths 583, 4097, 9243 padded to 9243, group 8192
  AttentionCase c{3, 9243, 1, 1, 8, 8192, 0};
  const AttentionInputs in(c);
  const int64_t lengths[] = {583, 4097, 9243};
  for (int64_t b = 0; b < 3; ++b) in.d_o.narrow(0, b, 1).narrow(1, lengths[b], c.T - lengths[b]).zero_();
  const AttentionOutputs all = run_attention(c, in);
  for (int64_t b = 0; b < 3; ++b) {
    const auto cut = [&](const at::Tensor& x) { return x.narrow(0, b, 1).narrow(1, 0, lengths[b]); };
    AttentionCase one = c;
    one.T = lengths[b];
    expect_same({cut(all.o), all.lse.narrow(0, b, 1).narrow(2, 0, lengths[b]), cut(all.d_q), cut(all.d_k), cut(all.d_v)},
                run_attention(one.layout(), cut(in.q), cut(in.k), cut(in.v), cut(in.d_o)));
  }
}

TEST(AttentionContract, OutputOverQueriesAndQueryGradientOverQueries) {
  for (const AttentionCase& c : kCases) {
    const AttentionInputs in(c);
    const AttentionOutputs apart = run_attention(c, in);
    at::Tensor o = in.q.clone(), lse = at::empty_like(apart.lse);
    s2_attention_forward(c.layout(), o, in.k, in.v, o, lse);
    EXPECT_TRUE(same_bits(o, apart.o)) << c;
    EXPECT_TRUE(same_bits(lse, apart.lse)) << c;
    at::Tensor d_q = in.q.clone(), d_k = at::full(in.k.sizes(), NAN, in.k.options()), d_v = at::full(in.v.sizes(), NAN, in.v.options());
    at::Tensor workspace = at::full({attention_workspace_elements(c.B, c.T, c.H)}, NAN, at::TensorOptions().dtype(at::kFloat));
    s2_attention_backward(c.layout(), d_q, in.k, in.v, apart.o, apart.lse, in.d_o, d_q, d_k, d_v, workspace);
    EXPECT_TRUE(same_bits(d_q, apart.d_q)) << c;  // seven products in place of five, the same bits
    EXPECT_TRUE(same_bits(d_k, apart.d_k)) << c;
    EXPECT_TRUE(same_bits(d_v, apart.d_v)) << c;
  }
}

TEST(AttentionContract, WindowsOfQueriesKeepBits) {  // every window sees the keys of the whole row, or just those it needs
  for (AttentionCase c : {AttentionCase{1, 1300, 3, 1, 64, 512, 1}, {1, 700, 2, 2, 64, 256, 1, AttentionKind::s2, at::kBFloat16}}) {
    const AttentionInputs in(c);
    const AttentionOutputs whole = run_attention(c, in);
    at::Tensor d_k = at::zeros(in.k.sizes(), at::kDouble), d_v = at::zeros(in.v.sizes(), at::kDouble);
    const std::vector<int64_t> cuts = {0, 137, 512, 1000, c.T};
    for (size_t i = 0; i + 1 < cuts.size() && cuts[i] < c.T; ++i) {
      AttentionLayout window = c.layout();
      const int64_t q0 = cuts[i], q1 = std::min(cuts[i + 1], c.T), k0 = std::max<int64_t>(0, q0 - c.group), k1 = q1;
      window.q_begin = q0;
      window.k_begin = k0;
      const AttentionOutputs part = run_attention(window, in.q.narrow(1, q0, q1 - q0), in.k.narrow(1, k0, k1 - k0),
                                                  in.v.narrow(1, k0, k1 - k0), in.d_o.narrow(1, q0, q1 - q0));
      EXPECT_TRUE(same_bits(part.o, whole.o.narrow(1, q0, q1 - q0))) << q0;
      EXPECT_TRUE(same_bits(part.lse, whole.lse.narrow(2, q0, q1 - q0))) << q0;
      EXPECT_TRUE(same_bits(part.d_q, whole.d_q.narrow(1, q0, q1 - q0))) << q0;
      d_k.narrow(1, k0, k1 - k0).add_(part.d_k);
      d_v.narrow(1, k0, k1 - k0).add_(part.d_v);
    }
    const double bound = attention_bounds(dtype_of(in.q)).d_k.largest;
    EXPECT_LT(relative_error(doubles(d_k), doubles(whole.d_k)), bound);
    EXPECT_LT(relative_error(doubles(d_v), doubles(whole.d_v)), bound);
  }
}

TEST(AttentionContract, GuardsAroundOutputsStay) {  // poison and completeness are part of every call of run_attention
  AttentionCase c{2, 77, 3, 1, 10, 30, 1};
  const AttentionInputs in(c);
  const auto guarded = [&](int64_t heads) {
    return at::full({c.B + 2, c.T + 2, heads + 2, c.D + 2}, 7.0f, at::TensorOptions().dtype(at::kFloat));
  };
  const auto inner = [&](const at::Tensor& x, int64_t heads) {
    return x.narrow(0, 1, c.B).narrow(1, 1, c.T).narrow(2, 1, heads).narrow(3, 1, c.D);
  };
  at::Tensor buffers[] = {guarded(c.H), guarded(c.H), guarded(c.K), guarded(c.K)};
  at::Tensor o = inner(buffers[0], c.H), d_q = inner(buffers[1], c.H), d_k = inner(buffers[2], c.K), d_v = inner(buffers[3], c.K);
  at::Tensor lse_buffer = at::full({c.B, c.H, 2 * c.T}, 7.0f, at::TensorOptions().dtype(at::kFloat));
  at::Tensor lse = lse_buffer.narrow(2, 0, c.T), workspace = at::full({attention_workspace_elements(c.B, c.T, c.H)}, NAN, lse.options());
  for (const at::Tensor& x : {o, d_q, d_k, d_v}) x.fill_(NAN);
  s2_attention_forward(c.layout(), in.q, in.k, in.v, o, lse);
  s2_attention_backward(c.layout(), in.q, in.k, in.v, o, lse, in.d_o, d_q, d_k, d_v, workspace);
  EXPECT_EQ(compare_with_oracle(c, in, {o, lse, d_q, d_k, d_v}), "");
  for (const at::Tensor& x : {o, d_q, d_k, d_v}) x.fill_(7);
  lse.fill_(7);
  for (const at::Tensor& x : buffers) {
    for (const double e : doubles(x)) ASSERT_EQ(e, 7);
  }
  for (const double e : doubles(lse_buffer)) ASSERT_EQ(e, 7);
}

TEST(AttentionContract, NaNInInputsShows) {
  AttentionCase c{1, 64, 1, 1, 8, 64, 1};
  const AttentionInputs in(c);
  in.k.narrow(1, 10, 1).fill_(NAN);
  const AttentionOutputs r = run_attention(c, in);
  for (const double x : doubles(r.o.narrow(1, 10, 54))) ASSERT_TRUE(std::isnan(x));
}

TEST(AttentionContract, NoTensorIsAllocated) {  // no copies of q, k, v, no repeated keys, no mask
  for (const AttentionCase& c : kCases) {
    const AttentionInputs in(c);
    AttentionOutputs r = run_attention(c, in);
    at::Tensor workspace = at::zeros({attention_workspace_elements(c.B, c.T, c.H)}, at::TensorOptions().dtype(at::kFloat));
    install_memory_counter();
    mark_memory();
    s2_attention_forward(c.layout(), in.q, in.k, in.v, r.o, r.lse);
    s2_attention_backward(c.layout(), in.q, in.k, in.v, r.o, r.lse, in.d_o, r.d_q, r.d_k, r.d_v, workspace);
    EXPECT_EQ(memory_count().allocations, 0) << c;
    const at::Tensor counted = at::zeros({4}, workspace.options());
    EXPECT_EQ(memory_count().allocations, 1);
  }
}

/// A field of /proc/self/status in bytes; VmHWM is the highest resident size, reset by writing 5 to clear_refs.
int64_t status_bytes(const std::string& field) {
  std::ifstream file("/proc/self/status");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(field + ":")) return std::atoll(line.c_str() + field.size() + 1) * 1024;
  }
  return -1;
}

/// A T x T mask would take 0.5 GB even in bits. LONGLORA_LONG_TESTS=1 takes the full size: 131072 tokens in groups of 32768.
TEST(AttentionContract, LongRowsNeedNoMemory) {
  const bool is_full_size = std::getenv("LONGLORA_LONG_TESTS") != nullptr;
  AttentionCase c{1, is_full_size ? 131072 : 65536, 2, 2, 64, is_full_size ? 32768 : 8192, 1};
  const int64_t group = c.group, half = group / 2;
  const AttentionInputs in(c);
  at::Tensor o = at::full(in.q.sizes(), NAN, in.q.options()), lse = at::full({1, 2, c.T}, NAN, in.q.options());
  std::ofstream("/proc/self/clear_refs") << "5";
  const int64_t before = status_bytes("VmRSS");
  s2_attention_forward(c.layout(), in.q, in.k, in.v, o, lse);
  EXPECT_LT(status_bytes("VmHWM") - before, 16 << 20);
  // Rows at both sides of boundaries and at the end, against one query in fp64.
  for (const int64_t t : {int64_t{0}, half - 1, half, group - 1, group, int64_t{40000}, c.T - 1}) {
    for (int64_t h = 0; h < 2; ++h) {
      const int64_t from = h == 0 ? t / group * group : std::max<int64_t>(0, (t + half) / group * group - half);
      const auto rows = [&](const at::Tensor& x) { return x.narrow(1, from, t - from + 1).narrow(2, h, 1); };
      const at::Tensor q = in.q.narrow(1, t, 1).narrow(2, h, 1).to(at::kDouble);
      const at::Tensor s = (rows(in.k).to(at::kDouble) * q).sum(at::IntArrayRef{3}) / 8.0, p = (s - s.max()).exp();
      const at::Tensor want = (rows(in.v).to(at::kDouble) * p.unsqueeze(3)).sum(at::IntArrayRef{1}) / p.sum();
      const double rms = std::sqrt((want * want).mean().item<double>());
      EXPECT_LT((o.narrow(1, t, 1).narrow(2, h, 1).to(at::kDouble).reshape({-1}) - want.reshape({-1})).abs().max().item<double>(),
                attention_bounds(DType::f32).o.largest * rms)
          << t << ' ' << h;
    }
  }
}

}  // namespace
}  // namespace longlora::test
