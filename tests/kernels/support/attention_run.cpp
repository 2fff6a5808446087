#include "kernels/support/attention_run.h"

#include <algorithm>
#include <stdexcept>

namespace longlora::testing {

using namespace kernels;

namespace {

void require(const Launch& l) {
  if (!l.ok()) throw std::runtime_error(std::string("launch refused: ") + l.argument + " " + l.problem);
}

std::vector<float> normal(size_t n, ElementType type, std::mt19937_64& random, float spread) {
  std::normal_distribution<float> distribution(0.0f, spread);
  std::vector<float> x(n);
  for (float& value : x) value = rounded(type, distribution(random));
  return x;
}

}  // namespace

AttentionInputs random_inputs(const AttentionCase& c, ElementType type, uint64_t seed, float spread) {
  std::mt19937_64 random(seed);
  const auto n = [&](int64_t heads) { return static_cast<size_t>(c.rows * c.tokens * heads * c.head_size); };
  AttentionInputs in;
  in.q = normal(n(c.heads), type, random, spread);
  in.k = normal(n(c.kv_heads), type, random, spread);
  in.v = normal(n(c.kv_heads), type, random, 1.0f);
  in.d_o = normal(n(c.heads), type, random, 1.0f);
  return in;
}

// qkv lines: q heads, k heads, v heads, gap. A line of every array is one token.
AttentionRun::AttentionRun(const AttentionCase& c, ElementType type, const AttentionInputs& in, Placement placement,
                           AttentionVariant variant)
    : case_(c),
      type_(type),
      placement_(placement),
      bytes_(element_bytes(type)),
      qkv_line_((c.heads + 2 * c.kv_heads) * c.head_size + placement.gap),
      o_line_(c.heads * c.head_size + placement.gap),
      kv_line_(c.kv_heads * c.head_size + placement.gap),
      qkv_("qkv", static_cast<size_t>(c.rows * c.tokens * qkv_line_ * bytes_)),
      d_o_("d_o", static_cast<size_t>(c.rows * c.tokens * o_line_ * bytes_)),
      o_("o", d_o_.size()),
      d_q_("d_q", d_o_.size()),
      d_k_("d_k", static_cast<size_t>(c.rows * c.tokens * kv_line_ * bytes_)),
      d_v_("d_v", d_k_.size()),
      lse_("lse", static_cast<size_t>(c.rows * c.heads * c.tokens)),
      delta_("delta", lse_.size()) {
  shape_ = {.type = type,
            .rows = c.rows,
            .tokens = c.tokens,
            .group = c.group,
            .num_heads = c.heads,
            .num_kv_heads = c.kv_heads,
            .num_plain = c.num_plain,
            .head_size = c.head_size,
            .wraps = c.wraps,
            .q_begin = 0,
            .q_end = c.tokens,
            .k_begin = 0,
            .k_end = c.tokens,
            .variant = variant};
  if (!c.document_starts.empty()) {
    std::vector<int32_t> begin, end;
    for (const std::vector<int64_t>& starts : c.document_starts)
      for (int64_t t = 0; t < c.tokens; ++t) {
        const auto next = std::upper_bound(starts.begin(), starts.end(), t);
        begin.push_back(static_cast<int32_t>(*(next - 1)));
        end.push_back(static_cast<int32_t>(next == starts.end() ? c.tokens : *next));
      }
    document_begin_ = std::make_unique<DeviceArray<int32_t>>("document_begin", begin);
    document_end_ = std::make_unique<DeviceArray<int32_t>>("document_end", end);
    shape_.document_begin = document_begin_->data();
    shape_.document_end = document_end_->data();
  }
  replace(in);
}

std::vector<unsigned char> AttentionRun::packed(const AttentionInputs& in) const {
  std::vector<unsigned char> bytes(qkv_.size(), 0xff);
  const int64_t q = case_.heads * case_.head_size, k = case_.kv_heads * case_.head_size;
  for (int64_t line = 0; line < case_.rows * case_.tokens; ++line) {
    unsigned char* to = bytes.data() + line * qkv_line_ * bytes_;
    for (int64_t i = 0; i < q; ++i) put(type_, to + i * bytes_, in.q[static_cast<size_t>(line * q + i)]);
    for (int64_t i = 0; i < k; ++i) put(type_, to + (q + i) * bytes_, in.k[static_cast<size_t>(line * k + i)]);
    for (int64_t i = 0; i < k; ++i) put(type_, to + (q + k + i) * bytes_, in.v[static_cast<size_t>(line * k + i)]);
  }
  return bytes;
}

void AttentionRun::replace(const AttentionInputs& in) {
  qkv_.write(packed(in));
  std::vector<unsigned char> bytes(d_o_.size(), 0xff);
  const int64_t width = case_.heads * case_.head_size;
  for (int64_t line = 0; line < case_.rows * case_.tokens; ++line)
    for (int64_t i = 0; i < width; ++i)
      put(type_, bytes.data() + (line * o_line_ + i) * bytes_, in.d_o[static_cast<size_t>(line * width + i)]);
  d_o_.write(bytes);
}

HeadView AttentionRun::view(DeviceArray<unsigned char>& array, int64_t, int64_t first_head, int64_t line, int64_t position) const {
  return {array.data() + (first_head * case_.head_size + position * line) * bytes_, case_.tokens * line, line, case_.head_size};
}
StatisticsView AttentionRun::statistics(DeviceArray<float>& array, int64_t position) const {
  return {array.data() + position, case_.heads * case_.tokens, case_.tokens};
}

S2Shape AttentionRun::window(int64_t q_begin, int64_t q_end, int64_t k_begin, int64_t k_end) const {
  S2Shape s = shape_;
  s.q_begin = q_begin, s.q_end = q_end, s.k_begin = k_begin, s.k_end = k_end;
  return s;
}

void AttentionRun::forward() { forward_in_windows({0, case_.tokens}); }
void AttentionRun::backward() { backward_in_windows({0, case_.tokens}); }

/// The first key that any head lets a query see.
int64_t AttentionRun::lowest_key(int64_t query) const {
  int64_t lowest = query;
  for (int64_t b = 0; b < case_.rows; ++b)
    for (const bool shifted : {false, true}) {
      const std::vector<int64_t> none, &starts = case_.document_starts.empty() ? none : case_.document_starts[static_cast<size_t>(b)];
      const std::vector<int64_t> numbers = group_numbers(case_.tokens, case_.group, shifted, starts);
      const auto mine = numbers[static_cast<size_t>(query)];
      lowest = std::min<int64_t>(lowest, std::find(numbers.begin(), numbers.end(), mine) - numbers.begin());
    }
  return lowest;
}

void AttentionRun::forward_in_windows(const std::vector<int64_t>& cuts) {
  const int64_t H = case_.heads, K = case_.kv_heads;
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    const int64_t from = case_.wraps ? 0 : lowest_key(cuts[i]) / kAttentionTile * kAttentionTile;
    const S2Shape s = window(cuts[i], cuts[i + 1], from, cuts[i + 1]);
    const HeadView q = view(qkv_, H, 0, qkv_line_, cuts[i]);
    const HeadView o = placement_.o_over_q ? q : view(o_, H, 0, o_line_, cuts[i]);
    require(s2_attention_forward(s, q, view(qkv_, K, H, qkv_line_, from), view(qkv_, K, H + K, qkv_line_, from), o,
                                 statistics(lse_, cuts[i]), nullptr));
  }
}

HeadView AttentionRun::carry_view(DeviceArray<float>& array) const {
  const int64_t line = case_.kv_heads * case_.head_size;
  return {array.data(), case_.tokens * line, line, case_.head_size};
}

void AttentionRun::backward_in_windows(const std::vector<int64_t>& cuts) {
  const int64_t H = case_.heads, K = case_.kv_heads, T = case_.tokens;
  const size_t carry = static_cast<size_t>(case_.rows * T * K * case_.head_size);
  DeviceArray<float> carry_k("carry_k", carry), carry_v("carry_v", carry);
  require(s2_attention_delta(shape_, view(o_, H, 0, o_line_), view(d_o_, H, 0, o_line_), statistics(delta_), nullptr));
  // queries of later windows first; keys all at once, except that a window sees no keys beyond its end
  const bool whole = cuts.size() == 2;
  for (size_t i = cuts.size() - 1; i-- > 0;) {
    S2BackwardKv b;
    const S2Shape s = window(cuts[i], cuts[i + 1], 0, T);
    b.q = view(qkv_, H, 0, qkv_line_, cuts[i]), b.k = view(qkv_, K, H, qkv_line_), b.v = view(qkv_, K, H + K, qkv_line_);
    b.d_o = view(d_o_, H, 0, o_line_, cuts[i]), b.lse = statistics(lse_, cuts[i]), b.delta = statistics(delta_, cuts[i]);
    b.d_k = view(d_k_, K, 0, kv_line_), b.d_v = view(d_v_, K, 0, kv_line_);
    if (!whole && i + 2 < cuts.size()) b.carry_in = {carry_view(carry_k), carry_view(carry_v)};
    if (!whole && i > 0) b.carry_out = {carry_view(carry_k), carry_view(carry_v)};
    require(s2_attention_backward_kv(s, b, nullptr));
  }
  for (size_t i = 0; i + 1 < cuts.size(); ++i) {
    S2BackwardQ b;
    b.q = view(qkv_, H, 0, qkv_line_, cuts[i]), b.k = view(qkv_, K, H, qkv_line_), b.v = view(qkv_, K, H + K, qkv_line_);
    b.d_o = view(d_o_, H, 0, o_line_, cuts[i]), b.lse = statistics(lse_, cuts[i]), b.delta = statistics(delta_, cuts[i]);
    b.d_q = placement_.d_q_over_q ? b.q : view(d_q_, H, 0, o_line_, cuts[i]);
    require(s2_attention_backward_q(window(cuts[i], cuts[i + 1], 0, T), b, nullptr));
  }
}

std::vector<float> AttentionRun::unpacked(DeviceArray<unsigned char>& array, int64_t heads, int64_t first_head, int64_t line,
                                          bool check_gap) {
  const std::vector<unsigned char> bytes = array.read();
  const int64_t width = heads * case_.head_size;
  std::vector<float> x;
  x.reserve(static_cast<size_t>(case_.rows * case_.tokens * width));
  for (int64_t t = 0; t < case_.rows * case_.tokens; ++t) {
    const unsigned char* from = bytes.data() + t * line * bytes_;
    for (int64_t i = 0; i < width; ++i) x.push_back(get(type_, from + (first_head * case_.head_size + i) * bytes_));
    for (int64_t i = width * bytes_; check_gap && i < line * bytes_; ++i)
      if (from[i] != 0xff) throw std::runtime_error("the gap behind token " + std::to_string(t) + " was written");
  }
  return x;
}

AttentionOutputs AttentionRun::outputs() {
  const int64_t H = case_.heads, K = case_.kv_heads;
  AttentionOutputs out;
  out.o = placement_.o_over_q ? unpacked(qkv_, H, 0, qkv_line_, false) : unpacked(o_, H, 0, o_line_, true);
  out.d_q = placement_.d_q_over_q ? unpacked(qkv_, H, 0, qkv_line_, false) : unpacked(d_q_, H, 0, o_line_, true);
  out.d_k = unpacked(d_k_, K, 0, kv_line_, true);
  out.d_v = unpacked(d_v_, K, 0, kv_line_, true);
  out.lse = lse_.read();
  return out;
}

}  // namespace longlora::testing
