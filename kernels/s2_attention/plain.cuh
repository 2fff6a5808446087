#pragma once
// The plain kernels: one warp an output row, the definition written down in fp32. They take every type, every head size up to 256 and any
// alignment; fp32 runs use them, and they check the tensor-core kernels on a device.
#include "s2_attention/backward_kv_sm80.cuh"
#include "s2_attention/backward_q_sm80.cuh"
#include "s2_attention/delta_sm80.cuh"
#include "s2_attention/forward_sm80.cuh"

namespace longlora::kernels {

inline constexpr int kPlainMaxHeadSize = 256;

/// A row of up to 256 elements over the lanes of a warp: lane l holds elements l, l + 32, ...
struct LaneRow {
  static constexpr int kElements = kPlainMaxHeadSize / 32;
  float v[kElements];

  LONGLORA_DEVICE void clear() {
    LONGLORA_UNROLL
    for (int i = 0; i < kElements; ++i) v[i] = 0.0f;
  }
  template <class E>
  LONGLORA_DEVICE static LaneRow load(const E* p, int size) {
    LaneRow r;
    LONGLORA_UNROLL
    for (int i = 0; i < kElements; ++i) {
      const int d = device::lane_index() + 32 * i;
      r.v[i] = d < size ? device::to_float(device::load(p + d)) : 0.0f;
    }
    return r;
  }
  template <class E>
  LONGLORA_DEVICE void save(E* p, int size, float factor) const {
    LONGLORA_UNROLL
    for (int i = 0; i < kElements; ++i) {
      const int d = device::lane_index() + 32 * i;
      if (d < size) device::store(p + d, device::from_float<E>(v[i] * factor));
    }
  }
  LONGLORA_DEVICE void add(const LaneRow& other, float factor) {
    LONGLORA_UNROLL
    for (int i = 0; i < kElements; ++i) v[i] += other.v[i] * factor;
  }
  LONGLORA_DEVICE float dot(const LaneRow& other) const {
    float sum = 0.0f;
    LONGLORA_UNROLL
    for (int i = 0; i < kElements; ++i) sum += v[i] * other.v[i];
    return device::warp_sum(sum);
  }
};

/// Four warps a block, one line (row of the batch, head, position) each.
struct PlainLine {
  static constexpr int kPerBlock = 4;
  bool valid;
  int row, head, position;
  LONGLORA_DEVICE static PlainLine of_warp(int rows, int num_heads, int begin, int end) {
    const int64_t id = int64_t{device::block_index()} * kPerBlock + device::warp_index(), tokens = end - begin;
    return {id < rows * tokens * num_heads, static_cast<int>(id / tokens / num_heads), static_cast<int>(id / tokens % num_heads),
            begin + static_cast<int>(id % tokens)};
  }
};

/// take(key) for the keys that a query sees, from right to left: the wrap-around band, then its own segment.
template <class Take>
LONGLORA_DEVICE void for_visible_keys(const Pattern& a, const PlainLine& line, Take&& take) {
  const int half = a.group / 2;
  if (a.wraps_head(line.head) && line.position < half)
    for (int key = a.tokens - 1; key >= a.tokens - half; --key) take(key);
  for (int key = line.position, from = a.visible_from(line.row, line.position, a.shift_of(line.head)); key >= from; --key) take(key);
}

template <class E>
struct ForwardPlain {
  using Params = ForwardParams;
  static constexpr int kThreads = 128, kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const Pattern& a = p.pattern;
    const PlainLine line = PlainLine::of_warp(a.rows, a.num_heads, a.q_begin, a.q_end);
    if (!line.valid) return;
    const int kv_head = line.head / a.heads_per_kv();
    const LaneRow q = LaneRow::load(at<const E>(p.q, line.row, line.head, line.position, a.q_begin), a.head_size);
    float largest = -device::infinity(), sum = 0.0f;
    LaneRow o;
    o.clear();
    const auto take = [&](int key) {
      const float s = q.dot(LaneRow::load(at<const E>(p.k, line.row, kv_head, key, a.k_begin), a.head_size)) * p.scale_log2;
      const float next = device::maximum(largest, s), shrink = device::exp2(largest - next), weight = device::exp2(s - next);
      largest = next;
      sum = sum * shrink + weight;
      LONGLORA_UNROLL
      for (int i = 0; i < LaneRow::kElements; ++i) o.v[i] *= shrink;
      o.add(LaneRow::load(at<const E>(p.v, line.row, kv_head, key, a.k_begin), a.head_size), weight);
    };
    for_visible_keys(a, line, take);
    o.save(at<E>(p.o, line.row, line.head, line.position, a.q_begin), a.head_size, device::divide(1.0f, sum));
    if (device::lane_index() == 0)
      device::store(at(p.lse, line.row, line.head, line.position, a.q_begin), largest * kLn2 + device::log(sum));
  }
};

template <class E>
struct BackwardKvPlain {
  using Params = BackwardParams;
  static constexpr int kThreads = 128, kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const Pattern& a = p.pattern;
    const PlainLine line = PlainLine::of_warp(a.rows, a.num_kv_heads, a.k_begin, a.k_end);
    if (!line.valid) return;
    const int key = line.position, heads = a.heads_per_kv(), half = a.group / 2;
    const LaneRow k = LaneRow::load(at<const E>(p.k, line.row, line.head, key, a.k_begin), a.head_size);
    const LaneRow v = LaneRow::load(at<const E>(p.v, line.row, line.head, key, a.k_begin), a.head_size);
    LaneRow d_k, d_v;
    d_k.clear();
    d_v.clear();
    if (p.carry_in.d_k.data != nullptr) {
      d_k = LaneRow::load(at<const float>(p.carry_in.d_k, line.row, line.head, key, a.k_begin), a.head_size);
      d_v = LaneRow::load(at<const float>(p.carry_in.d_v, line.row, line.head, key, a.k_begin), a.head_size);
    }
    const auto take = [&](int query, int head) {
      const LaneRow q = LaneRow::load(at<const E>(p.q, line.row, head, query, a.q_begin), a.head_size);
      const LaneRow d_o = LaneRow::load(at<const E>(p.d_o, line.row, head, query, a.q_begin), a.head_size);
      const float lse = device::load(at(p.lse, line.row, head, query, a.q_begin)) * kLog2E;
      const float weight = device::exp2(q.dot(k) * p.scale_log2 - lse);
      const float d_s = weight * (d_o.dot(v) - device::load(at(p.delta, line.row, head, query, a.q_begin)));
      d_v.add(d_o, weight);
      d_k.add(q, d_s);
    };
    const int end_plain = a.segment_end(line.row, key, Shift::none), end_shifted = a.segment_end(line.row, key, Shift::half_group);
    const int last = (end_plain > end_shifted ? end_plain : end_shifted) - 1;
    for (int query = last < a.q_end ? last : a.q_end - 1; query >= key && query >= a.q_begin; --query)
      for (int head = line.head * heads; head < (line.head + 1) * heads; ++head)
        if (query < (head < a.num_plain ? end_plain : end_shifted)) take(query, head);
    if (a.wraps && key >= a.tokens - half)
      for (int query = half - 1; query >= 0; --query)
        for (int head = line.head * heads; head < (line.head + 1) * heads; ++head)
          if (head >= a.num_plain) take(query, head);
    if (p.carry_out.d_k.data != nullptr) {
      d_k.save(at<float>(p.carry_out.d_k, line.row, line.head, key, a.k_begin), a.head_size, 1.0f);
      d_v.save(at<float>(p.carry_out.d_v, line.row, line.head, key, a.k_begin), a.head_size, 1.0f);
    } else {
      d_k.save(at<E>(p.d_k, line.row, line.head, key, a.k_begin), a.head_size, p.scale);
      d_v.save(at<E>(p.d_v, line.row, line.head, key, a.k_begin), a.head_size, 1.0f);
    }
  }
};

template <class E>
struct BackwardQPlain {
  using Params = BackwardParams;
  static constexpr int kThreads = 128, kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const Pattern& a = p.pattern;
    const PlainLine line = PlainLine::of_warp(a.rows, a.num_heads, a.q_begin, a.q_end);
    if (!line.valid) return;
    const int kv_head = line.head / a.heads_per_kv();
    const LaneRow q = LaneRow::load(at<const E>(p.q, line.row, line.head, line.position, a.q_begin), a.head_size);
    const LaneRow d_o = LaneRow::load(at<const E>(p.d_o, line.row, line.head, line.position, a.q_begin), a.head_size);
    const float lse = device::load(at(p.lse, line.row, line.head, line.position, a.q_begin)) * kLog2E;
    const float delta = device::load(at(p.delta, line.row, line.head, line.position, a.q_begin));
    LaneRow d_q;
    d_q.clear();
    const auto take = [&](int key) {
      const LaneRow k = LaneRow::load(at<const E>(p.k, line.row, kv_head, key, a.k_begin), a.head_size);
      const LaneRow v = LaneRow::load(at<const E>(p.v, line.row, kv_head, key, a.k_begin), a.head_size);
      const float weight = device::exp2(q.dot(k) * p.scale_log2 - lse);
      d_q.add(k, weight * (d_o.dot(v) - delta));
    };
    for_visible_keys(a, line, take);
    d_q.save(at<E>(p.d_q, line.row, line.head, line.position, a.q_begin), a.head_size, p.scale);
  }
};

template <class E>
struct DeltaPlain {
  using Params = DeltaParams;
  static constexpr int kThreads = 128, kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const PlainLine line = PlainLine::of_warp(p.rows, p.num_heads, p.q_begin, p.q_end);
    if (!line.valid) return;
    const LaneRow o = LaneRow::load(at<const E>(p.o, line.row, line.head, line.position, p.q_begin), p.head_size);
    const LaneRow d_o = LaneRow::load(at<const E>(p.d_o, line.row, line.head, line.position, p.q_begin), p.head_size);
    const float sum = o.dot(d_o);
    if (device::lane_index() == 0) device::store(at(p.delta, line.row, line.head, line.position, p.q_begin), sum);
  }
};

}  // namespace longlora::kernels
