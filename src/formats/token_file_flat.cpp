#include "formats/token_file_flat.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "longlora/core/error.h"

namespace longlora {
namespace {

constexpr uint64_t kBlockBytes = uint64_t{1} << 20;   // one pread; a multiple of every id size

template <class T>
void widen(std::span<const std::byte> bytes, int32_t* out) {
  for (size_t i = 0; i < bytes.size() / sizeof(T); ++i) {
    T value;
    std::memcpy(&value, bytes.data() + i * sizeof(T), sizeof(T));
    out[i] = static_cast<int32_t>(value);
  }
}

void widen_ids(std::span<const std::byte> bytes, uint32_t id_bytes, int32_t* out) {
  id_bytes == 2 ? widen<uint16_t>(bytes, out) : widen<uint32_t>(bytes, out);
}

/// Takes ids block by block and notes the largest one and the document starts.
struct IdScan {
  FlatScan& result;
  std::optional<int64_t> eos;
  uint64_t seen = 0;

  void add(std::span<const int32_t> ids) {
    for (const int32_t id : ids) {
      const uint32_t value = static_cast<uint32_t>(id);
      if (value > result.largest_id) {
        result.largest_id = value;
        result.largest_at = seen;
      }
      ++seen;
      if (eos && int64_t{value} == *eos) result.starts.push_back(seen);
    }
  }
};

}  // namespace

void read_flat_ids(const InputFile& file, const FlatTokens& layout, uint64_t first, std::span<int32_t> out) {
  LONGLORA_INVARIANT(first <= layout.count && out.size() <= layout.count - first);
  const uint64_t block = kBlockBytes / layout.id_bytes;
  std::vector<std::byte> bytes(std::min<uint64_t>(block, out.size()) * layout.id_bytes);
  for (uint64_t done = 0; done < out.size(); done += block) {
    const uint64_t n = std::min<uint64_t>(block, out.size() - done);
    const auto piece = std::span(bytes).first(n * layout.id_bytes);
    file.read(layout.offset + (first + done) * layout.id_bytes, piece);
    widen_ids(piece, layout.id_bytes, out.data() + done);
  }
}

FlatScan scan_flat_tokens(const InputFile& file, const FlatTokens& layout, uint64_t digest_from, std::optional<int64_t> eos) {
  FlatScan result;
  result.starts.push_back(0);
  IdScan ids{result, eos};
  Sha256 hash;
  std::vector<std::byte> bytes(std::min(kBlockBytes, file.size()));
  std::vector<int32_t> block_ids(std::min(kBlockBytes / layout.id_bytes, layout.count));
  const uint64_t ids_end = layout.offset + layout.count * layout.id_bytes;
  // Blocks begin at the ids, so that no id is cut: first what stands before them, then the ids, then the rest.
  const uint64_t edges[] = {digest_from, layout.offset, ids_end, file.size()};
  for (int part = 0; part < 3; ++part) {
    for (uint64_t at = edges[part]; at < edges[part + 1];) {
      const auto piece = std::span(bytes).first(std::min<uint64_t>(bytes.size(), edges[part + 1] - at));
      file.read(at, piece);
      hash.update(piece);
      if (part == 1) {
        widen_ids(piece, layout.id_bytes, block_ids.data());
        ids.add(std::span(block_ids).first(piece.size() / layout.id_bytes));
      }
      at += piece.size();
    }
  }
  if (result.starts.back() != layout.count) result.starts.push_back(layout.count);
  result.digest = hash.finish();
  file.check_unchanged();
  return result;
}

FlatTokenSource::FlatTokenSource(InputFile file, FlatTokens layout, std::optional<int64_t> eos)
    : file_(std::move(file)), layout_(layout), scan_(scan_flat_tokens(file_, layout_, 0, eos)) {
  LONGLORA_CHECK(scan_.largest_id <= 0x7fffffffu, data,
                 fmt::format("token id {} at token {} does not fit 31 bits", scan_.largest_id, scan_.largest_at), file_.path().string(),
                 "check how the file was written");
}

void FlatTokenSource::read(uint64_t first, std::span<int32_t> out) const { read_flat_ids(file_, layout_, first, out); }

}  // namespace longlora
