// A model folder: model.safetensors, or an index with its shards in bijection.

#include <fmt/format.h>

#include <algorithm>

#include "formats/problems.h"
#include "formats/safetensors_file.h"
#include "formats/weights_foreign.h"
#include "formats/weights_index.h"
#include "longlora/core/log.h"

namespace longlora {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

class ShardedFolder final : public WeightSource {
 public:
  explicit ShardedFolder(const fs::path& folder);
  std::span<const TensorInfo> tensors() const override { return tensors_; }
  void read(const TensorInfo& tensor, uint64_t begin, std::span<std::byte> out) const override {
    LONGLORA_INVARIANT(tensor.file < shards_.size());
    shards_[tensor.file].read(tensor, begin, out);
  }
  std::vector<fs::path> files() const override {
    std::vector<fs::path> all;
    for (const SafetensorsFile& shard : shards_) all.push_back(shard.files().front());
    return all;
  }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  void check_unchanged() const override {
    for (const SafetensorsFile& shard : shards_) shard.check_unchanged();
  }

 private:
  void check_bijection(const WeightIndex&, const std::string& source) const;

  std::vector<SafetensorsFile> shards_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string> metadata_;
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

/// Files of the folder, names only; an unreadable folder is a missing or forbidden input.
std::vector<std::string> names_in(const fs::path& folder) {
  std::error_code error;
  std::vector<std::string> names;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error))
    names.push_back(at->path().filename().string());
  if (error) fail_errno(error.value(), "open folder", folder.string());
  std::sort(names.begin(), names.end());
  return names;
}

void notice_unlisted_shards(const fs::path& folder, const WeightIndex& index) {
  for (const std::string& name : names_in(folder)) {
    if (name.ends_with(".safetensors") && !std::binary_search(index.shards.begin(), index.shards.end(), name)) {
      log_notice("{} is not in {} and is ignored", (folder / name).string(), kIndexFile);
    }
  }
}

ShardedFolder::ShardedFolder(const fs::path& folder) {
  const InputFile file = InputFile::open_in(folder, kIndexFile);
  const std::string source = file.path().string();
  refuse_foreign(file);
  LONGLORA_CHECK(file.size() <= kMaxIndexBytes, data,
                 fmt::format("expected an index of at most {} bytes, found {}", kMaxIndexBytes, file.size()), source,
                 "write the index again");
  const WeightIndex index = parse_weight_index(file.read_text(0, file.size()), source);
  file.check_unchanged();
  for (const std::string& name : index.shards) {
    LONGLORA_CHECK(is_there(folder / name), missing, fmt::format("shard {} of {} is not there", name, kIndexFile), (folder / name).string(),
                   "download the missing file");
    shards_.emplace_back(InputFile::open_in(folder, name));
  }
  check_bijection(index, source);
  uint64_t total = 0;
  for (uint32_t shard = 0; shard < shards_.size(); ++shard) {
    for (TensorInfo tensor : shards_[shard].tensors()) {
      tensor.file = shard;
      total += tensor.bytes;
      tensors_.push_back(std::move(tensor));
    }
  }
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  if (!shards_.empty()) metadata_ = shards_.front().metadata();
  if (index.total_size && *index.total_size != total) {
    log_warning("{}: metadata.total_size is {}, the shards hold {} bytes", source, *index.total_size, total);
  }
  notice_unlisted_shards(folder, index);
}

/// Every mapped tensor is in its shard; every tensor of a listed shard is mapped to it. Then none can be in two shards.
void ShardedFolder::check_bijection(const WeightIndex& index, const std::string& source) const {
  Problems problems(source);
  for (const auto& [name, shard] : index.tensors) {
    if (!shards_[shard].find(name)) {
      problems.add(fmt::format("weight_map.{}", escape(name)),
                   fmt::format("expected the tensor in {}, it is not there", index.shards[shard]));
    }
  }
  for (uint32_t shard = 0; shard < shards_.size(); ++shard) {
    for (const TensorInfo& tensor : shards_[shard].tensors()) {
      const auto mapped = std::pair(tensor.name, shard);
      if (!std::binary_search(index.tensors.begin(), index.tensors.end(), mapped)) {
        problems.add(fmt::format("weight_map.{}", escape(tensor.name)),
                     fmt::format("the tensor of {} is not mapped to this shard", index.shards[shard]));
      }
    }
  }
  problems.raise(ErrorKind::data, "the index and the shards do not belong together; download both again");
}

[[noreturn]] void refuse_without_weights(const fs::path& folder) {
  const auto names = names_in(folder);
  for (const std::string& name : names) {
    if (is_meta_layout(name)) refuse_meta_layout(folder / name);
  }
  for (const std::string& name : names) {
    // tokenizer.bin and training_args.bin stand beside weights and are none
    if (has_pickle_name(name) && (name.starts_with("pytorch_model") || name.starts_with("model"))) refuse_pickle(folder / name);
  }
  fail(ErrorKind::missing, fmt::format("neither {} nor {} is there", kSingleFile, kIndexFile), folder.string(),
       "name a Hugging Face folder with safetensors weights or a .gguf file");
}

}  // namespace

std::unique_ptr<WeightSource> open_weight_folder(const std::filesystem::path& folder) {
  const bool has_index = is_there(folder / kIndexFile);
  if (is_there(folder / kSingleFile)) {
    if (has_index) log_notice("{} has {} and {}; the single file is used", folder.string(), kSingleFile, kIndexFile);
    return std::make_unique<SafetensorsFile>(InputFile::open_in(folder, kSingleFile));
  }
  if (has_index) return std::make_unique<ShardedFolder>(folder);
  refuse_without_weights(folder);
}

}  // namespace longlora
