#pragma once
// The compiled kernels, one translation unit a kernel and element type; launch.cu chooses among them.
#include "s2_attention/plain.cuh"

namespace longlora::kernels {

/// Tiles of `edge` positions that [begin, end) touches, on the grid from 0.
struct Tiles {
  int first, count;
};
inline Tiles tiles_of(int64_t begin, int64_t end, int64_t edge) {
  const int64_t first = begin / edge;
  return {static_cast<int>(first), static_cast<int>((end + edge - 1) / edge - first)};
}

/// Of element type E: chooses head size and alignment. `params` lack only their tiles.
template <class E>
struct Sm80 {
  static Launch forward(ForwardParams params, bool aligned, Stream);
  static Launch backward_kv(BackwardParams params, bool aligned, Stream);
  static Launch backward_q(BackwardParams params, bool aligned, Stream);
};

/// Kernel<E, D, aligned> for a run-time head size (64 or 128) and alignment.
template <template <class, int, bool> class Kernel, class E>
Launch launch_tiles(typename Kernel<E, 64, true>::Params params, bool aligned, int64_t begin, int64_t end, int64_t lines, Stream stream) {
  const auto with = [&]<class K>(K*) {
    const Tiles tiles = tiles_of(begin, end, K::kTileEdge);
    params.first_tile = tiles.first;
    params.num_tiles = tiles.count;
    return device::launch<K>(lines * tiles.count, K::kSharedBytes, params, stream);
  };
  const bool wide = params.pattern.head_size == 128;
  if (aligned) return wide ? with(static_cast<Kernel<E, 128, true>*>(nullptr)) : with(static_cast<Kernel<E, 64, true>*>(nullptr));
  return wide ? with(static_cast<Kernel<E, 128, false>*>(nullptr)) : with(static_cast<Kernel<E, 64, false>*>(nullptr));
}

}  // namespace longlora::kernels
