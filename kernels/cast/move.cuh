#pragma once
// Copies of whole rows by an index: the embedding's gather and the moves of cast.h.
#include "common/vectors.cuh"

namespace longlora::kernels {

/// Rows of `Word`s: 16 bytes each when everything is aligned to that, else single elements as bits.
template <class Word>
LONGLORA_DEVICE void copy_word(const Word* from, Word* to) {
  if constexpr (sizeof(Word) == 16)
    device::store_128(to, device::load_128(from));
  else
    device::store(to, device::load(from));
}

template <class Word, class Index, bool kScatter>
struct MoveRows {
  struct Params {
    const Word* from;
    Word* to;
    const Index* index;
    int64_t from_stride, to_stride;  // in words
    Deal deal;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const Share s = share_of<kThreads>(p.deal);
    if (!s.exists) return;
    const int64_t other = device::load(p.index + s.row);
    copy_word(p.from + (kScatter ? s.row : other) * p.from_stride + s.item, p.to + (kScatter ? other : s.row) * p.to_stride + s.item);
  }
};

template <class Word, bool kScatter, class Index>
Launch move_words(int64_t rows, int64_t row_bytes, const Index* index, ConstRows from, Rows to, int64_t bytes_of_element, Stream stream) {
  using Kernel = MoveRows<Word, Index, kScatter>;
  constexpr int64_t kBytes = sizeof(Word);
  const Deal deal = Deal::of(rows, row_bytes / kBytes, Kernel::kThreads);
  const typename Kernel::Params params = {static_cast<const Word*>(from.data),     static_cast<Word*>(to.data),           index,
                                          from.stride * bytes_of_element / kBytes, to.stride * bytes_of_element / kBytes, deal};
  return device::launch<Kernel>(deal.blocks(), 0, params, stream);
}

template <bool kScatter, class Index>
Launch move_rows(ElementType type, int64_t rows, int64_t width, const Index* index, ConstRows from, Rows to, Stream stream) {
  const int64_t bytes = element_bytes(type);
  if (width * bytes % 16 == 0 && on_16_bytes(from, type) && on_16_bytes(to, type))
    return move_words<Bits128, kScatter>(rows, width * bytes, index, from, to, bytes, stream);
  if (bytes == 4) return move_words<uint32_t, kScatter>(rows, width * bytes, index, from, to, bytes, stream);
  return move_words<uint16_t, kScatter>(rows, width * bytes, index, from, to, bytes, stream);
}

}  // namespace longlora::kernels
