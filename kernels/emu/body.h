#pragma once
// The vocabulary on the host (device/vocabulary.h lists it). Every word checks what its instruction asks for.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <source_location>
#include <type_traits>

#include "device/vocabulary.h"
#include "emu/runtime.h"

#define LONGLORA_DEVICE inline
#define LONGLORA_UNROLL
#define LONGLORA_UNROLL_BY(n)

namespace longlora::device {

using Place = std::source_location;

inline int thread_index() { return emu::current.thread; }
inline int block_index() { return emu::current.block; }
inline int num_blocks() { return emu::current.num_blocks; }
inline int lane_index() { return thread_index() % 32; }
inline int warp_index() { return thread_index() / 32; }

inline void sync_block(Place at = Place::current()) { emu::sync_block(emu::site("sync_block", at)); }
inline void sync_named(int barrier, int threads, Place at = Place::current()) {
  emu::sync_named(barrier, threads, emu::site("sync_named", at));
}
inline void sync_warp(Place at = Place::current()) { emu::sync_warp(emu::site("sync_warp", at)); }

// --- shuffles: the last lane to come exchanges the operands of all
// ------------------------------------------------------------------------

namespace emulated {
template <class T>
struct Exchange {
  T value, result;
  int from;
};
template <class T>
void exchange(void* const (&operands)[32]) {
  for (void* p : operands) {
    auto* mine = static_cast<Exchange<T>*>(p);
    mine->result = static_cast<Exchange<T>*>(operands[mine->from & 31])->value;
  }
}
template <class T, class Combine>
void butterfly(void* const (&operands)[32], Combine combine) {
  T x[32], y[32];
  for (int i = 0; i < 32; ++i) x[i] = *static_cast<T*>(operands[i]);
  for (int mask = 16; mask > 0; mask >>= 1) {
    for (int i = 0; i < 32; ++i) y[i] = combine(x[i], x[i ^ mask]);
    std::memcpy(x, y, sizeof x);
  }
  for (int i = 0; i < 32; ++i) *static_cast<T*>(operands[i]) = x[i];
}
template <class T>
void sum(void* const (&operands)[32]) {
  butterfly<T>(operands, [](T a, T b) { return a + b; });
}
inline void largest(void* const (&operands)[32]) {
  butterfly<float>(operands, [](float a, float b) { return std::fmax(a, b); });
}
}  // namespace emulated

template <class T>
T shuffle(T value, int lane, Place at = Place::current()) {
  emulated::Exchange<T> e{value, value, lane};
  emu::meet_warp(&emulated::exchange<T>, &e, emu::site("shuffle", at));
  return e.result;
}
template <class T>
T shuffle_xor(T value, int mask, Place at = Place::current()) {
  return shuffle(value, lane_index() ^ mask, at);
}
template <class T>
T warp_sum(T value, Place at = Place::current()) {
  emu::meet_warp(&emulated::sum<T>, &value, emu::site("warp_sum", at));
  return value;
}
inline float warp_max(float value, Place at = Place::current()) {
  emu::meet_warp(&emulated::largest, &value, emu::site("warp_max", at));
  return value;
}

// --- memory: the accesses themselves stand here, in code that the sanitizers see
// ----------------------------------------------------------

template <class T>
T* shared_memory() {
  return reinterpret_cast<T*>(emu::current.shared);
}
template <class T>
T load(const T* p, Place at = Place::current()) {
  emu::check(p, sizeof(T), alignof(T), emu::Access::read, emu::site("load", at));
  return *p;
}
template <class T>
void store(T* p, std::type_identity_t<T> value, Place at = Place::current()) {
  emu::check(p, sizeof(T), alignof(T), emu::Access::write, emu::site("store", at));
  *p = value;
}
inline Bits128 load_128(const void* p, Place at = Place::current()) {
  emu::check(p, 16, 16, emu::Access::read, emu::site("load_128", at));
  return *static_cast<const Bits128*>(p);
}
inline void store_128(void* p, const Bits128& bits, Place at = Place::current()) {
  emu::check(p, 16, 16, emu::Access::write, emu::site("store_128", at));
  *static_cast<Bits128*>(p) = bits;
}
template <class T>
T load_streamed(const T* p, Place at = Place::current()) {
  return load(p, at);
}
template <class T>
void store_streamed(T* p, std::type_identity_t<T> value, Place at = Place::current()) {
  store(p, value, at);
}
inline Bits128 load_128_streamed(const void* p, Place at = Place::current()) { return load_128(p, at); }
inline void store_128_streamed(void* p, const Bits128& bits, Place at = Place::current()) { store_128(p, bits, at); }

inline void copy_async_16(void* shared, const void* global, bool valid, Place at = Place::current()) {
  const emu::Site site = emu::site("copy_async_16", at);
  emu::check(shared, 16, 16, emu::Access::write, site);
  if (valid) emu::check(global, 16, 16, emu::Access::read, site);
  emu::count_copy();
  auto* to = static_cast<Bits128*>(shared);
  if (emu::defer_copy({shared, valid ? global : nullptr}, site)) {
    std::memset(to, emu::kPoison, sizeof *to);
  } else {
    *to = valid ? *static_cast<const Bits128*>(global) : Bits128{};
  }
}
inline void commit_copies() { emu::commit_copies(); }
template <int N>
void wait_copies() {
  for (emu::Copy c; emu::next_completed_copy(N, c);)
    *static_cast<Bits128*>(c.to) = c.from ? *static_cast<const Bits128*>(c.from) : Bits128{};
}

// --- tensor cores
// -------------------------------------------------------------------------------------------------------------------------

inline float bits_to_float(uint32_t b) { return std::bit_cast<float>(b); }
inline uint32_t float_to_bits(float x) { return std::bit_cast<uint32_t>(x); }

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }
inline float to_float(fp16 x) { return static_cast<float>(std::bit_cast<_Float16>(x.bits)); }
template <class E>
E from_float(float x) {
  if constexpr (std::is_same_v<E, float>) {
    return x;
  } else if constexpr (std::is_same_v<E, bf16>) {
    const uint32_t b = float_to_bits(x);
    if (x != x) return {static_cast<uint16_t>(b >> 16 | 0x40u)};
    return {static_cast<uint16_t>((b + 0x7fffu + (b >> 16 & 1u)) >> 16)};
  } else {
    return {std::bit_cast<uint16_t>(static_cast<_Float16>(x))};
  }
}
template <class E>
uint32_t pack2(float low, float high) {
  return from_float<E>(low).bits | static_cast<uint32_t>(from_float<E>(high).bits) << 16;
}
template <class E>
void unpack2(uint32_t bits, float& low, float& high) {
  low = to_float(E{static_cast<uint16_t>(bits)});
  high = to_float(E{static_cast<uint16_t>(bits >> 16)});
}

namespace emulated {
/// ldmatrix: lane l of matrix i gets row l/4, columns 2 (l%4) and the next; transposed: rows and columns exchanged.
struct Matrices {
  int count;
  uint32_t (*registers)[4];
  Bits128 rows[8];  // what this lane's addresses hold: lane l brings row l%8 of matrix l/8
};
template <bool kTransposed>
void distribute(void* const (&operands)[32]) {
  const Matrices* lanes[32];
  for (int l = 0; l < 32; ++l) lanes[l] = static_cast<const Matrices*>(operands[l]);
  for (int n = 0; n < lanes[0]->count; ++n)
    for (int i = 0; i < 4; ++i) {
      uint16_t cell[8][8];
      for (int r = 0; r < 8; ++r) std::memcpy(cell[r], &lanes[8 * i + r]->rows[n], 16);
      for (int l = 0; l < 32; ++l) {
        const int r = l / 4, c = 2 * (l % 4);
        const uint32_t low = kTransposed ? cell[c][r] : cell[r][c], high = kTransposed ? cell[c + 1][r] : cell[r][c + 1];
        lanes[l]->registers[n][i] = low | high << 16;
      }
    }
}
template <bool kTransposed, int N>
void matrices(uint32_t (&r)[N][4], const void* const (&rows)[N], emu::Site site) {
  static_assert(N <= 8);
  Matrices m{N, r, {}};
  for (int i = 0; i < N; ++i) {
    emu::check(rows[i], 16, 16, emu::Access::read, site);
    m.rows[i] = *static_cast<const Bits128*>(rows[i]);
  }
  emu::meet_warp(&distribute<kTransposed>, &m, site);
}

struct Multiplication {
  int count;
  float (*c)[4];
  const uint32_t* a;
  const uint32_t (*b)[4];  // of two columns of tiles each
};
/// c += a b with fp32 products and sums, k ascending; fragment layouts of PTX mma.m16n8k16.
template <class E>
void multiply(void* const (&operands)[32]) {
  const Multiplication* lanes[32];
  for (int l = 0; l < 32; ++l) lanes[l] = static_cast<const Multiplication*>(operands[l]);
  float a[16][16];  // [k][row]
  for (int l = 0; l < 32; ++l) {
    const int g = l / 4, t = 2 * (l % 4);
    for (int i = 0; i < 4; ++i) {
      const int row = g + 8 * (i % 2), k = t + 8 * (i / 2);
      unpack2<E>(lanes[l]->a[i], a[k][row], a[k + 1][row]);
    }
  }
  for (int n = 0; n < lanes[0]->count; ++n) {
    float b[16][8], c[8][16];  // [k][column], [column][row]
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = 2 * (l % 4);
      for (int i = 0; i < 2; ++i) unpack2<E>(lanes[l]->b[n / 2][2 * (n % 2) + i], b[t + 8 * i][g], b[t + 8 * i + 1][g]);
      for (int i = 0; i < 4; ++i) c[t + i % 2][g + 8 * (i / 2)] = lanes[l]->c[n][i];
    }
    for (int column = 0; column < 8; ++column)
      for (int k = 0; k < 16; ++k)
        for (int row = 0; row < 16; ++row) c[column][row] += a[k][row] * b[k][column];
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = 2 * (l % 4);
      for (int i = 0; i < 4; ++i) lanes[l]->c[n][i] = c[t + i % 2][g + 8 * (i / 2)];
    }
  }
  emu::count_multiplications(lanes[0]->count);
}
}  // namespace emulated

template <int N>
void load_matrices(uint32_t (&r)[N][4], const void* const (&rows)[N], Place at = Place::current()) {
  emulated::matrices<false, N>(r, rows, emu::site("load_matrices", at));
}
template <int N>
void load_matrices_transposed(uint32_t (&r)[N][4], const void* const (&rows)[N], Place at = Place::current()) {
  emulated::matrices<true, N>(r, rows, emu::site("load_matrices_transposed", at));
}
template <class E, int N>
void multiply_accumulate(float (&c)[N][4], const uint32_t (&a)[4], const uint32_t (&b)[N / 2][4], Place at = Place::current()) {
  emulated::Multiplication m{N, c, a, b};
  emu::meet_warp(&emulated::multiply<E>, &m, emu::site("multiply_accumulate", at));
}

// --- arithmetic
// ---------------------------------------------------------------------------------------------------------------------------

inline float exp2(float x) { return std::exp2(x); }
inline float exp(float x) { return std::exp(x); }
inline float log(float x) { return std::log(x); }
inline float rsqrt(float x) { return 1.0f / std::sqrt(x); }
inline float sqrt(float x) { return std::sqrt(x); }
inline double sqrt(double x) { return std::sqrt(x); }
inline float divide(float a, float b) { return a / b; }
inline float maximum(float a, float b) { return std::fmax(a, b); }
inline float infinity() { return std::numeric_limits<float>::infinity(); }

inline int opaque(int x) { return x; }

inline int atomic_add(int* p, int value, Place at = Place::current()) {
  emu::check(p, sizeof *p, alignof(int), emu::Access::read, emu::site("atomic_add", at));
  return __atomic_fetch_add(p, value, __ATOMIC_RELAXED);  // no race between two of them; it orders nothing else
}

// --- launch
// -------------------------------------------------------------------------------------------------------------------------------

template <class K>
Launch launch(int64_t blocks, int64_t shared_bytes, const typename K::Params& params, Stream) {
  if (blocks <= 0) return {};
  if (blocks > 0x7fffffff) return {"blocks", "more than 2^31 - 1 blocks in one launch"};
  if (shared_bytes > 227 * 1024) return {"shared memory", "more than a block may have"};
  emu::run_blocks(
      blocks, K::kThreads, shared_bytes, [](const void* p) { K::run(*static_cast<const typename K::Params*>(p)); }, &params);
  return {};
}

}  // namespace longlora::device
