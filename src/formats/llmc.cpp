// llm.c's token files: 256 int32 of header (magic, version, count), then u16 or u32 ids.
#include <fmt/format.h>

#include <cstring>

#include "formats/token_file_flat.h"
#include "longlora/core/error.h"
#include "longlora/core/dtype.h"

namespace longlora {
namespace {

constexpr uint64_t kHeaderBytes = 256 * sizeof(int32_t);

struct LlmcKind { int32_t magic, version; uint32_t id_bytes; };
constexpr LlmcKind kKinds[] = {{20240520, 1, 2}, {20240801, 7, 4}};

const LlmcKind* kind_of(int32_t magic, int32_t version) {
  for (const LlmcKind& kind : kKinds)
    if (kind.magic == magic && kind.version == version) return &kind;
  return nullptr;
}

}  // namespace

bool looks_like_llmc(std::span<const std::byte> head) {
  int32_t words[2];
  if (head.size() < sizeof(words)) return false;
  std::memcpy(words, head.data(), sizeof(words));
  return kind_of(words[0], words[1]) != nullptr;
}

std::unique_ptr<TokenSource> open_llmc(const std::filesystem::path& path, std::optional<int64_t> eos) {
  InputFile file(path);
  LONGLORA_CHECK(file.size() >= kHeaderBytes, data, fmt::format("{} bytes, but an llm.c header alone has 1024", file.size()), path.string(),
                 "name the right format, or write the file again");
  int32_t words[3];
  file.read(0, std::as_writable_bytes(std::span(words)));
  const LlmcKind* kind = kind_of(words[0], words[1]);
  LONGLORA_CHECK(kind, data,
                 fmt::format("header says magic {}, version {}; expected 20240520, 1 (uint16) or 20240801, 7 (uint32)", words[0], words[1]),
                 path.string(), "name the right format, or write the file again");
  LONGLORA_CHECK(words[2] > 0, data, fmt::format("header says {} tokens", words[2]), path.string(), "write the file again");
  const FlatTokens layout{.offset = kHeaderBytes, .count = static_cast<uint64_t>(words[2]), .id_bytes = kind->id_bytes};
  const uint64_t expected = kHeaderBytes + layout.count * layout.id_bytes;
  LONGLORA_CHECK(
      file.size() == expected, data,
      fmt::format("{} bytes, but the header's {} tokens of {} bytes make {}", file.size(), layout.count, layout.id_bytes, expected),
      path.string(), "the file is cut or damaged; write it again");
  return std::make_unique<FlatTokenSource>(std::move(file), layout, eos);
}

}  // namespace longlora
