#include "common/arguments.h"
#include "device/vocabulary.h"
#include "embedding/naive.h"

namespace longlora::kernels::naive {
namespace {

using namespace device;

template <class E>
struct Gather {
  struct Params {
    const E* weight;
    const int32_t* ids;
    E* x;
    int64_t rows, width, stride;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t at = int64_t{block_index()} * kThreads + thread_index(), row = at / p.width, i = at % p.width;
    if (row < p.rows) store(p.x + row * p.stride + i, load(p.weight + load(p.ids + row) * p.width + i));
  }
};

template <class E>
struct Add {
  struct Params {
    const int32_t *unique_ids, *offsets, *positions;
    const E* d_x;
    float* d_weight;
    int64_t num_unique, width, stride;
  };
  static constexpr int kThreads = 32, kMinBlocks = 1;
  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t at = int64_t{block_index()} * kThreads + thread_index(), token = at / p.width, i = at % p.width;
    if (token >= p.num_unique) return;
    float* to = p.d_weight + load(p.unique_ids + token) * p.width + i;
    for (int k = load(p.offsets + token); k < load(p.offsets + token + 1); ++k)
      store(to, load(to) + to_float(load(p.d_x + load(p.positions + k) * p.stride + i)));
  }
};

}  // namespace

Launch embedding_forward(ElementType type, int64_t rows, int64_t width, const void* weight, const int32_t* ids, Rows x, Stream stream) {
  return with_type(type, [&]<class E>() {
    const typename Gather<E>::Params params = {static_cast<const E*>(weight), ids, static_cast<E*>(x.data), rows, width, x.stride};
    return launch<Gather<E>>((rows * width + 31) / 32, 0, params, stream);
  });
}

Launch embedding_backward(ElementType type, int64_t num_unique, int64_t width, const int32_t* unique_ids, const int32_t* offsets,
                          const int32_t* positions, ConstRows d_x, float* d_weight, Stream stream) {
  return with_type(type, [&]<class E>() {
    const typename Add<E>::Params params = {unique_ids, offsets,    positions, static_cast<const E*>(d_x.data),
                                            d_weight,   num_unique, width,     d_x.stride};
    return launch<Add<E>>((num_unique * width + 31) / 32, 0, params, stream);
  });
}

}  // namespace longlora::kernels::naive
