#include "cast/naive.h"
#include "common/arguments.h"
#include "device/vocabulary.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

template <class From, class To>
struct Element {
  struct Params {
    const From* from;
    To* to;
    const int64_t* index;  // null: row n to row n
    int64_t from_stride, to_stride, rows, width;
    float scale;
    bool scatter;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t at = int64_t{block_index()} * kThreads + thread_index(), row = at / p.width, i = at % p.width;
    if (row >= p.rows) return;
    const int64_t other = p.index == nullptr ? row : load(p.index + row);
    const From x = load(p.from + (p.scatter ? row : other) * p.from_stride + i);
    store(p.to + (p.scatter ? other : row) * p.to_stride + i, from_float<To>(to_float(x) * p.scale));
  }
};

struct Operands {
  int64_t rows, width;
  const int64_t* index;
  ConstRows from;
  Rows to;
  float scale;
  bool scatter;
};

Launch run(ElementType from_type, ElementType to_type, const Operands& o, Stream stream) {
  return with_type(from_type, [&]<class From>() {
    return with_type(to_type, [&]<class To>() {
      const typename Element<From, To>::Params params = {static_cast<const From*>(o.from.data),
                                                         static_cast<To*>(o.to.data),
                                                         o.index,
                                                         o.from.stride,
                                                         o.to.stride,
                                                         o.rows,
                                                         o.width,
                                                         o.scale,
                                                         o.scatter};
      return launch<Element<From, To>>((o.rows * o.width + 31) / 32, 0, params, stream);
    });
  });
}

}  // namespace

Launch cast(int64_t rows, int64_t width, ElementType from_type, ConstRows from, ElementType to_type, Rows to, float scale, Stream stream) {
  return run(from_type, to_type, {rows, width, nullptr, from, to, scale, false}, stream);
}
Launch gather_rows(ElementType type, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream stream) {
  return run(type, type, {rows, width, index, from, to, 1.0f, false}, stream);
}
Launch scatter_rows(ElementType type, int64_t rows, int64_t width, const int64_t* index, ConstRows from, Rows to, Stream stream) {
  return run(type, type, {rows, width, index, from, to, 1.0f, true}, stream);
}

}  // namespace longlora::kernels::naive
