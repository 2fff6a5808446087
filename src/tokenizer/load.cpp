#include <string>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/hash.h"
#include "longlora/tokenizer/tokenizer.h"
#include "tokenizer/json_tokenizer.h"
#include "tokenizer/model_proto.h"
#include "tokenizer/sp_tokenizer.h"
#include "tokenizer/tokenizer_json.h"

namespace longlora {
namespace {

constexpr const char* kJsonName = "tokenizer.json";
constexpr const char* kModelName = "tokenizer.model";
constexpr const char* kConfigName = "tokenizer_config.json";
constexpr size_t kMaxConfigBytes = size_t{64} << 20;

bool exists(const fs::path& folder, const char* name) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(folder / name, ignored));
}

std::string read_bounded(const fs::path& folder, const char* name, size_t max_bytes) {
  const InputFile file = InputFile::open_in(folder, name);
  LONGLORA_CHECK(file.size() <= max_bytes, data, std::to_string(file.size()) + " bytes, limit " + std::to_string(max_bytes),
                 (folder / name).string(), "give the tokenizer's own file");
  std::string text = file.read_text(0, file.size());
  file.check_unchanged();
  return text;
}

}  // namespace

bool has_tokenizer(const fs::path& folder) { return exists(folder, kJsonName) || exists(folder, kModelName); }

std::unique_ptr<Tokenizer> load_tokenizer(const fs::path& folder) {
  LONGLORA_CHECK(has_tokenizer(folder), missing, "no tokenizer.json and no tokenizer.model", folder.string(),
                 "copy the tokenizer's files into the folder");
  const bool is_json = exists(folder, kJsonName);
  const char* name = is_json ? kJsonName : kModelName;
  const std::string text = read_bounded(folder, name, is_json ? kMaxTokenizerJsonBytes : kMaxModelProtoBytes);
  Sha256 hash;
  hash.update(text);   // both names sort before tokenizer_config.json
  TokenizerPolicy policy;
  if (exists(folder, kConfigName)) {
    const std::string config = read_bounded(folder, kConfigName, kMaxConfigBytes);
    hash.update(config);
    policy = read_policy(config, (folder / kConfigName).string());
  }
  const std::string path = (folder / name).string();
  const Digest digest = hash.finish();
  return is_json ? make_json_tokenizer(text, path, policy, digest) : make_sp_tokenizer(text, path, policy, digest);
}

}  // namespace longlora
