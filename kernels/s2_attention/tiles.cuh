#pragma once
// Tiles of 16-bit elements in shared memory, and matrix products on them.
//
// A tile is [rows][D], cut into chunks of 16 bytes. Chunk c of row r lies at place c ^ (r mod 8) of its row: eight consecutive rows of one
// column of chunks, what one ldmatrix phase reads, are in eight different groups of banks.
#include "s2_attention/pattern.cuh"

namespace longlora::kernels {

template <class E, int D>
struct Tile {
  static constexpr int kChunks = D / 8;
  LONGLORA_DEVICE static E* chunk(E* tile, int row, int c) { return tile + (row * kChunks + (c ^ (row & 7))) * 8; }
  LONGLORA_DEVICE static const E* chunk(const E* tile, int row, int c) { return tile + (row * kChunks + (c ^ (row & 7))) * 8; }

  /// Starts copying positions [first, first + kRows); those outside [begin, end) become zeros. `source` points to position `begin`.
  template <int kRows, int kThreads>
  LONGLORA_DEVICE static void start_copy(E* tile, const E* source, int64_t token_stride, int first, int begin, int end) {
    constexpr int kStep = kThreads / kChunks;  // rows that the block covers at once: a multiple of 8, so that the swizzle stays
    static_assert(kStep % 8 == 0);
    const int thread = device::opaque(device::thread_index()), r = thread / kChunks, c = thread % kChunks;
    E* target = chunk(tile, r, c);
    const E* from = source + int64_t{first + r - begin} * token_stride + c * 8;
    int position = first + r;
    LONGLORA_UNROLL_BY(1)
    for (int i = 0; i < kRows / kStep; ++i) {
      const bool valid = position >= begin && position < end;
      device::copy_async_16(target, valid ? from : source, valid);
      target += kStep * D;
      from += kStep * token_stride;
      position += kStep;
    }
  }
};

/// M x N products of 16 x 8: rows 16 M, columns 8 N. Element (m, n, e) of a lane is row 16 m + lane/4 + 8 (e/2), column 8 n + 2 (lane%4) +
/// e%2.
template <int M, int N>
struct Accumulators {
  static constexpr int kBatch = 8;
  static_assert(N % kBatch == 0);
  float v[M][N / kBatch][kBatch][4];

  LONGLORA_DEVICE float& at(int m, int n, int e) { return v[m][n / kBatch][n % kBatch][e]; }
  LONGLORA_DEVICE void clear() {
    LONGLORA_UNROLL
    for (int m = 0; m < M; ++m) LONGLORA_UNROLL
    for (int n = 0; n < N; ++n) LONGLORA_UNROLL
    for (int e = 0; e < 4; ++e) at(m, n, e) = 0.0f;
  }
};

/// What a lane needs to address its rows of 8 x 8 matrices: in one ldmatrix, lanes 8 i .. 8 i + 7 bring the rows of matrix i.
template <class E, int D>
struct LaneAddress {
  const E* row;  // row (lane mod 8) of the tile, or of the rows that the warp uses, moved by the matrix's own offset
  int swizzle, low;

  /// Matrices i = 0..3 start `rows_of_odd` rows lower for odd i (or for i >= 2), and one chunk further for the others.
  enum class Order { rows_then_chunks, chunks_then_rows };
  LONGLORA_DEVICE LaneAddress(const E* tile, Order order) {
    const int lane = device::opaque(device::lane_index()), r = lane & 7, first = lane >> 3 & 1, second = lane >> 4;
    row = tile + (r + 8 * (order == Order::rows_then_chunks ? first : second)) * D;
    low = ((order == Order::rows_then_chunks ? second : first) ^ (r & 1)) * 8;
    swizzle = r & 6;
  }
  /// Chunks 2 pair and 2 pair + 1 of rows further down by `rows`, a multiple of 8. `pair` and `rows` are constants after unrolling: only
  /// the exclusive or depends on the lane, and of it there are four values.
  LONGLORA_DEVICE const E* at(int rows, int pair) const {
    return row + rows * D + (((2 * pair & 7) ^ swizzle) + (2 * pair & ~7)) * 8 + low;
  }
};

/// acc += A B^T, A = rows [a_row, a_row + 16 M) of one tile, B = 8 N rows of another, both [rows][D].
template <class E, int D, int M, int N>
LONGLORA_DEVICE void multiply_rows(Accumulators<M, N>& acc, const E* a, int a_row, const E* b) {
  using Address = LaneAddress<E, D>;
  const Address of_a(a + a_row * D, Address::Order::rows_then_chunks), of_b(b, Address::Order::chunks_then_rows);
  LONGLORA_UNROLL
  for (int k = 0; k < D / 16; ++k) {
    uint32_t fa[M][4];
    const void* a_rows[M];
    LONGLORA_UNROLL
    for (int m = 0; m < M; ++m) a_rows[m] = of_a.at(16 * m, k);
    device::load_matrices(fa, a_rows);
    LONGLORA_UNROLL
    for (int batch = 0; batch < N / 8; ++batch) {
      uint32_t fb[4][4];
      const void* b_rows[4];
      LONGLORA_UNROLL
      for (int j = 0; j < 4; ++j) b_rows[j] = of_b.at(64 * batch + 16 * j, k);
      device::load_matrices(fb, b_rows);
      LONGLORA_UNROLL
      for (int m = 0; m < M; ++m) device::multiply_accumulate<E, 8>(acc.v[m][batch], fa[m], fb);
    }
  }
}

/// acc += P B, P = accumulators of another product, rounded to E (two 16 x 8 tiles of them are one 16 x 16 operand), B = 8 K rows of a
/// tile [rows][D].
template <class E, int D, int M, int K>
LONGLORA_DEVICE void multiply_columns(Accumulators<M, D / 8>& acc, Accumulators<M, K>& p, const E* b) {
  using Address = LaneAddress<E, D>;
  const Address of_b(b, Address::Order::rows_then_chunks);
  LONGLORA_UNROLL
  for (int k = 0; k < K / 2; ++k) {
    uint32_t fa[M][4];
    LONGLORA_UNROLL
    for (int m = 0; m < M; ++m) LONGLORA_UNROLL
    for (int i = 0; i < 4; ++i) fa[m][i] = device::pack2<E>(p.at(m, 2 * k + i / 2, 2 * (i % 2)), p.at(m, 2 * k + i / 2, 2 * (i % 2) + 1));
    LONGLORA_UNROLL
    for (int batch = 0; batch < D / 64; ++batch) {
      uint32_t fb[4][4];
      const void* b_rows[4];
      LONGLORA_UNROLL
      for (int j = 0; j < 4; ++j) b_rows[j] = of_b.at(16 * k, 4 * batch + j);
      device::load_matrices_transposed(fb, b_rows);
      LONGLORA_UNROLL
      for (int m = 0; m < M; ++m) device::multiply_accumulate<E, 8>(acc.v[m][batch], fa[m], fb);
    }
  }
}

/// Row of element e of a lane in block m of accumulators.
LONGLORA_DEVICE int row_of(int m, int e) { return 16 * m + device::lane_index() / 4 + 8 * (e / 2); }
/// Column of element e in tile n.
LONGLORA_DEVICE int column_of(int n, int e) { return 8 * n + 2 * (device::lane_index() % 4) + e % 2; }

struct Columns {
  int from, to;
};
/// Elements whose column position lies outside what `sees(row)` = [from, to) allows become -inf; `first` is the position of column 0.
template <int M, int N, class Sees>
LONGLORA_DEVICE void mask(Accumulators<M, N>& s, int first, Sees&& sees) {
  LONGLORA_UNROLL
  for (int m = 0; m < M; ++m) LONGLORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    const Columns allowed = sees(row_of(m, 2 * half));
    LONGLORA_UNROLL
    for (int n = 0; n < N; ++n) LONGLORA_UNROLL
    for (int e = 2 * half; e < 2 * half + 2; ++e) {
      const int column = first + column_of(n, e);
      if (column < allowed.from || column >= allowed.to) s.at(m, n, e) = -device::infinity();
    }
  }
}

/// Rounds 16 M rows of accumulators, each row times factor[m][half], into the warp's own rows of a tile and stores them from there: rows of
/// 16 bytes a lane, coalesced. Positions outside [begin, end) are not stored. The rows of the tile must not be read by other warps.
template <class E, int D, int M>
LONGLORA_DEVICE void store_rows(Accumulators<M, D / 8>& acc, const float (&factor)[M][2], E* tile, int tile_row, E* target,
                                int64_t token_stride, int first, int begin, int end) {
  device::sync_warp();
  LONGLORA_UNROLL
  for (int m = 0; m < M; ++m) LONGLORA_UNROLL
  for (int n = 0; n < D / 8; ++n) LONGLORA_UNROLL
  for (int half = 0; half < 2; ++half) {
    E* chunk = Tile<E, D>::chunk(tile, tile_row + row_of(m, 2 * half), n);
    const uint32_t pair = device::pack2<E>(acc.at(m, n, 2 * half) * factor[m][half], acc.at(m, n, 2 * half + 1) * factor[m][half]);
    device::store(reinterpret_cast<uint32_t*>(chunk) + device::lane_index() % 4, pair);
  }
  device::sync_warp();
  constexpr int kChunks = D / 8;
  LONGLORA_UNROLL
  for (int i = 0; i < 16 * M * kChunks / 32; ++i) {
    const int index = i * 32 + device::lane_index();
    const int r = index / kChunks, c = index % kChunks, position = first + r;
    if (position < begin || position >= end) continue;
    device::store_128(target + int64_t{position - begin} * token_stride + c * 8,
                      device::load_128(Tile<E, D>::chunk(tile, tile_row + r, c)));
  }
}

}  // namespace longlora::kernels
