#include "longlora/core/files.h"
#include "longlora/formats/gguf.h"
#include "longlora/train/prepare.h"

namespace longlora {
namespace {

/// The files of a Hugging Face folder in a place of their own, removed once the tokenizer has read them.
std::unique_ptr<Tokenizer> tokenizer_of_gguf(const BaseModel& base) {
  const GgufFile file(base.path);
  if (file.tokenizer().tokens.empty()) return nullptr;
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("longlora-tokenizer-" + process_nonce());
  create_folders(folder);
  for (const NamedFile& part : tokenizer_files_from_gguf(file.tokenizer(), base.config.vocab_size, base.config.max_position)) {
    write_file_atomic(folder / part.name, part.bytes);
  }
  std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(folder);
  std::error_code ignored;
  std::filesystem::remove_all(folder, ignored);
  return tokenizer;
}

}  // namespace

std::unique_ptr<Tokenizer> base_tokenizer(const BaseModel& base) {
  if (base.is_gguf) return tokenizer_of_gguf(base);
  return has_tokenizer(base.path) ? load_tokenizer(base.path) : nullptr;
}

}  // namespace longlora
