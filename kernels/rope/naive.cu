#include "common/arguments.h"
#include "device/vocabulary.h"
#include "rope/naive.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

template <class E>
struct RotateHead {
  struct Params {
    Rope p;
    const E* from;
    E* to;
    int64_t to_row, to_head;
    const float* table;
    const int32_t* positions;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& o) {
    const int64_t index = int64_t{block_index()} * kThreads + thread_index(), row = index / o.p.num_heads, head = index % o.p.num_heads;
    if (row >= o.p.rows) return;
    const int64_t half = o.p.head_size / 2;
    const E* from = o.from + row * o.p.row_stride + head * o.p.head_stride;
    E* to = o.to + row * o.to_row + head * o.to_head;
    const float* table = o.table + int64_t{load(o.positions + row)} * o.p.head_size;
    for (int64_t i = 0; i < half; ++i) {
      const float a = to_float(load(from + i)), b = to_float(load(from + half + i));
      const float c = load(table + i), s = o.p.backward ? -load(table + half + i) : load(table + half + i);
      store(to + i, from_float<E>(a * c - b * s));
      store(to + half + i, from_float<E>(b * c + a * s));
    }
  }
};

}  // namespace

Launch rope_copy(const Rope& p, const void* from, void* to, int64_t to_row_stride, int64_t to_head_stride, const float* table,
                 const int32_t* positions, Stream stream) {
  return with_type(p.type, [&]<class E>() {
    const typename RotateHead<E>::Params params = {
        p, static_cast<const E*>(from), static_cast<E*>(to), to_row_stride, to_head_stride, table, positions};
    return launch<RotateHead<E>>((p.rows * p.num_heads + 31) / 32, 0, params, stream);
  });
}

}  // namespace longlora::kernels::naive
