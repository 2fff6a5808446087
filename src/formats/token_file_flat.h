#pragma once
// Ids stored as little-endian u16 or u32 in a row: the part that `.tokens`, llm.c and raw uint16 files share.
#include <optional>

#include "longlora/formats/token_file.h"

namespace longlora {

struct FlatTokens {
  uint64_t offset = 0, count = 0;      // bytes; ids
  uint32_t id_bytes = 2;               // 2 or 4
};

/// Reads ids [first, first + out.size()).
void read_flat_ids(const InputFile&, const FlatTokens&, uint64_t first, std::span<int32_t> out);

struct FlatScan {
  Digest digest{};                     // of bytes [digest_from, file size)
  uint32_t largest_id = 0;
  uint64_t largest_at = 0;             // index of its first occurrence
  std::vector<uint64_t> starts;        // documents, split after every `eos`; one document without
};

/// One pass over the file: digest, largest id, document starts.
FlatScan scan_flat_tokens(const InputFile&, const FlatTokens&, uint64_t digest_from, std::optional<int64_t> eos);

/// A file of ids without an own index.
class FlatTokenSource : public TokenSource {
 public:
  FlatTokenSource(InputFile file, FlatTokens layout, std::optional<int64_t> eos);
  uint64_t num_tokens() const override { return layout_.count; }
  std::span<const uint64_t> document_starts() const override { return scan_.starts; }
  void read(uint64_t first, std::span<int32_t> out) const override;
  uint32_t vocab_size() const override { return 0; }
  uint32_t largest_id() const override { return scan_.largest_id; }
  Digest content_digest() const override { return scan_.digest; }
  const std::filesystem::path& path() const override { return file_.path(); }

 private:
  InputFile file_;
  FlatTokens layout_;
  FlatScan scan_;
};

}  // namespace longlora
