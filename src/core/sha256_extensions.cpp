// SHA-256 by the x86 extensions, which have no VEX form: among AVX code with the upper half of a register in use, Intel's processors change
// state at every one of them, a hundred times slower. This file is compiled without AVX (src/CMakeLists.txt).
#if defined(__x86_64__)
#include <immintrin.h>

#include "core/sha256_compress.h"

#if defined(__AVX__)
#error "compile this file without AVX"
#endif

namespace longlora {

/// The instructions work on two registers that hold {F,E,B,A} and {H,G,D,C}, lowest element first.
void compress_sha_extensions(std::array<uint32_t, 8>& state, const uint8_t* data, size_t blocks) {
  const auto as_int = [](uint32_t x) { return static_cast<int>(x); };
  __m128i abef = _mm_set_epi32(as_int(state[0]), as_int(state[1]), as_int(state[4]), as_int(state[5]));
  __m128i cdgh = _mm_set_epi32(as_int(state[2]), as_int(state[3]), as_int(state[6]), as_int(state[7]));
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  for (; blocks > 0; --blocks, data += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i w[4];
    for (int i = 0; i < 4; ++i) w[i] = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data + 16 * i)), big_endian);
#pragma GCC unroll 16               // w in registers
    for (int i = 0; i < 16; ++i) {  // four rounds each; w is a ring of the last sixteen schedule words
      if (i >= 4) {
        const __m128i seven_back = _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4);
        w[i & 3] = _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]), seven_back), w[(i + 3) & 3]);
      }
      const __m128i* const constants = reinterpret_cast<const __m128i*>(kSha256RoundConstants.data() + 4 * i);
      const __m128i x = _mm_add_epi32(w[i & 3], _mm_loadu_si128(constants));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, x);  // the two registers swap roles every two rounds
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(x, 0x0e));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  alignas(16) std::array<uint32_t, 4> first, second;
  _mm_store_si128(reinterpret_cast<__m128i*>(first.data()), abef);
  _mm_store_si128(reinterpret_cast<__m128i*>(second.data()), cdgh);
  state = {first[3], first[2], second[3], second[2], first[1], first[0], second[1], second[0]};
}

}  // namespace longlora
#endif
