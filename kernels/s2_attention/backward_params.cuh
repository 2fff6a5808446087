#pragma once
// Backward in two kernels that own what they write: no atomics, 7 products in place of 5.
//   kv: one block 64 keys of a KV head, one warp 16 of them. It computes S^T = K Q^T and dP^T = V dO^T, so that P^T and dS^T are already in
//       the registers that dV += P^T dO and dK += dS^T Q want as left operand. Query tiles in descending order, in each the query heads of
//       the KV head ascending: the order that windows of queries, later ones first, keep when sums travel in a carry.
//   q:  one block 64 queries of a head, one warp 16 of them, keys from right to left as in the forward pass. dQ += dS K.
// The first streamed operand (Q, or K) has two buffers, the second (dO, or V) one: its next tile is loaded under the last product.
#include "s2_attention/tiles.cuh"

namespace longlora::kernels {

struct BackwardParams {
  Pattern pattern;
  HeadView q, k, v, d_o, d_q, d_k, d_v;
  StatisticsView lse, delta;
  Carry carry_in, carry_out;
  float scale, scale_log2;  // 1 / sqrt(D), and times log2(e)
  int first_tile, num_tiles;
};

}  // namespace longlora::kernels
