// Headerless uint16 little-endian ids: LongLoRA's PG19 and proof-pile files, nanoGPT's `.bin`.
#include <fmt/format.h>

#include "formats/token_file_flat.h"
#include "longlora/core/error.h"

namespace longlora {

std::unique_ptr<TokenSource> open_raw_uint16(const std::filesystem::path& path, std::optional<int64_t> eos) {
  InputFile file(path);
  LONGLORA_CHECK(file.size() > 0 && file.size() % 2 == 0, data,
                 fmt::format("{} bytes are no list of 16-bit ids: the size must be even and not 0", file.size()), path.string(),
                 "name the right format, or write the file again");
  const uint64_t count = file.size() / 2;
  return std::make_unique<FlatTokenSource>(std::move(file), FlatTokens{.offset = 0, .count = count, .id_bytes = 2}, eos);
}

}  // namespace longlora
