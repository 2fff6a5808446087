// One thread four neighbouring elements, those of one Philox block.
#include <algorithm>

#include "common/arguments.h"
#include "longlora/kernels/dropout.h"

namespace longlora::kernels {
namespace {

using namespace device;

/// Philox4x32-10 (Salmon et al., SC'11).
struct Philox {
  uint32_t word[4];
  LONGLORA_DEVICE static Philox of(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint32_t k0, uint32_t k1) {
    LONGLORA_UNROLL
    for (int round = 0; round < 10; ++round) {
      const uint64_t first = uint64_t{0xD2511F53} * c0, second = uint64_t{0xCD9E8D57} * c2;
      c0 = static_cast<uint32_t>(second >> 32) ^ c1 ^ k0;
      c1 = static_cast<uint32_t>(second);
      c2 = static_cast<uint32_t>(first >> 32) ^ c3 ^ k1;
      c3 = static_cast<uint32_t>(first);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
  }
};

template <class E>
struct DropoutKernel {
  struct Params {
    const E* x;
    E* out;
    int64_t x_stride, out_stride, rows, width, tokens, first_row, blocks_per_row;
    float drop_below, keep_scale;
    uint32_t key[2], place, step;
    int64_t first_global_row;
    uint32_t global_rows[kDropoutRows];
    bool accumulate;
  };
  static constexpr int kThreads = 256, kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t id = int64_t{block_index()} * kThreads + thread_index();
    const int64_t n = id / p.blocks_per_row;
    if (n >= p.rows) return;
    const int64_t row = p.first_row + n, first = row % p.tokens * p.width;  // number of the row's first element
    const int64_t block = first / 4 + id % p.blocks_per_row;                // four elements of the sequence, some maybe of a neighbour row
    const Philox random =
        Philox::of(static_cast<uint32_t>(block), p.place, p.step, p.global_rows[row / p.tokens - p.first_global_row], p.key[0], p.key[1]);
    LONGLORA_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int64_t i = 4 * block + j - first;
      if (i < 0 || i >= p.width) continue;
      const float uniform = static_cast<float>(random.word[j] >> 8) * 0x1.0p-24f;
      const float kept = uniform >= p.drop_below ? to_float(load(p.x + n * p.x_stride + i)) * p.keep_scale : 0.0f;
      E* out = p.out + n * p.out_stride + i;
      store(out, from_float<E>(p.accumulate ? to_float(load(out)) + kept : kept));
    }
  }
};

template <class E>
Launch launch_rows(const Dropout& d, ConstRows x, Rows out, const uint32_t* global_rows, Stream stream) {
  typename DropoutKernel<E>::Params p{};
  p.x = static_cast<const E*>(x.data), p.out = static_cast<E*>(out.data);
  p.x_stride = x.stride, p.out_stride = out.stride;
  p.rows = d.rows, p.width = d.width, p.tokens = d.tokens, p.first_row = d.first_row;
  p.blocks_per_row = (d.width + 3) / 4 + 1;  // a row may begin inside a block
  p.drop_below = d.drop_probability, p.keep_scale = d.keep_scale, p.accumulate = d.accumulate;
  p.key[0] = static_cast<uint32_t>(d.seed), p.key[1] = static_cast<uint32_t>(d.seed >> 32);
  p.place = d.place, p.step = d.step;
  p.first_global_row = d.first_row / d.tokens;
  for (int64_t r = p.first_global_row; r <= (d.first_row + d.rows - 1) / d.tokens; ++r)
    p.global_rows[r - p.first_global_row] = global_rows[r];
  constexpr int kThreads = DropoutKernel<E>::kThreads;
  return launch<DropoutKernel<E>>((d.rows * p.blocks_per_row + kThreads - 1) / kThreads, 0, p, stream);
}

}  // namespace

Launch dropout(const Dropout& d, ConstRows x, Rows out, const uint32_t* global_rows, int64_t num_global_rows, Stream stream) {
  Arguments a;
  a.size("rows", d.rows)
      .size("width", d.width)
      .size("tokens", d.tokens)
      .matrix("x", x, d.type, d.width)
      .matrix("out", out, d.type, d.width);
  a.require(d.drop_probability >= 0 && d.drop_probability < 1, "drop_probability", "must lie in [0, 1)");
  a.require(d.first_row >= 0, "first_row", "is negative").require(global_rows != nullptr, "global_rows", "is null");
  if (!a.ok()) return a.answer;
  const int64_t last_row = d.first_row + d.rows - 1;
  a.require(last_row / d.tokens < num_global_rows, "global_rows", "does not cover the rows");
  a.require(d.tokens <= (int64_t{1} << 34) / d.width, "tokens", "times width needs more than 32 bits of block numbers");
  if (!a.ok()) return a.answer;
  return with_type(d.type, [&]<class E>() {
    for (int64_t first = d.first_row; first <= last_row;) {  // at most kDropoutRows global rows a launch
      const int64_t end = std::min((first / d.tokens + kDropoutRows) * d.tokens, last_row + 1);
      Dropout part = d;
      part.first_row = first;
      part.rows = end - first;
      const int64_t skipped = (first - d.first_row) * element_bytes(d.type);
      const ConstRows from{static_cast<const char*>(x.data) + skipped * x.stride, x.stride};
      const Rows to{static_cast<char*>(out.data) + skipped * out.stride, out.stride};
      if (const Launch l = launch_rows<E>(part, from, to, global_rows, stream); !l.ok()) return l;
      first = end;
    }
    return Launch{};
  });
}

}  // namespace longlora::kernels
