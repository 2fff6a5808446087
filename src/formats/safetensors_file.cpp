#include "formats/safetensors_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "formats/weights_foreign.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

SafetensorsHeader read_header(const InputFile& file) {
  refuse_foreign(file);
  const std::string source = file.path().string();
  constexpr std::string_view kDo = "the file is damaged or not safetensors; download or write it again";
  LONGLORA_CHECK(file.size() >= 10, data, fmt::format("expected at least 10 bytes of safetensors, found {}", file.size()),
                 source + ": byte 0", std::string(kDo));
  std::array<std::byte, 8> raw;
  file.read(0, raw);
  uint64_t length = 0;
  for (size_t i = 0; i < raw.size(); ++i) length |= std::to_integer<uint64_t>(raw[i]) << (8 * i);
  const uint64_t most = std::min(kMaxHeaderBytes, file.size() - 8);
  LONGLORA_CHECK(length >= 2 && length <= most, data, fmt::format("expected a header length of 2 to {}, found {}", most, length),
                 source + ": byte 0", std::string(kDo));
  return parse_safetensors_header(file.read_text(8, length), file.size(), source);
}

}  // namespace

const TensorInfo* WeightSource::find(std::string_view name) const {
  const auto all = tensors();
  const auto at = std::lower_bound(all.begin(), all.end(), name, [](const TensorInfo& t, std::string_view n) { return t.name < n; });
  return at != all.end() && at->name == name ? &*at : nullptr;
}

void check_range(const TensorInfo& tensor, uint64_t begin, uint64_t bytes) {
  LONGLORA_INVARIANT(begin <= tensor.bytes && bytes <= tensor.bytes - begin);
}

SafetensorsFile::SafetensorsFile(InputFile file) : file_(std::move(file)), header_(read_header(file_)) { file_.check_unchanged(); }

void SafetensorsFile::read(const TensorInfo& tensor, uint64_t begin, std::span<std::byte> out) const {
  check_range(tensor, begin, out.size());
  file_.read(tensor.offset + begin, out);
}

std::unique_ptr<WeightSource> open_safetensors(const std::filesystem::path& file) {
  if (is_meta_layout(file.filename().string())) refuse_meta_layout(file);
  return std::make_unique<SafetensorsFile>(InputFile(file));
}

}  // namespace longlora
