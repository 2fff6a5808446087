#include "formats/weights_foreign.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "longlora/core/error.h"
#include "longlora/formats/weights.h"

namespace longlora {

namespace {

constexpr uint64_t kSniffedBytes = 512;
constexpr std::string_view kConversion =
    "python -c \"import sys,torch,safetensors.torch as s; s.save_file({k:v.clone().contiguous() for k,v in "
    "torch.load(sys.argv[1],weights_only=True,map_location='cpu').items()},sys.argv[2],{'format':'pt'})\" IN.bin OUT.safetensors";

}  // namespace

bool has_pickle_name(std::string_view file_name) {
  constexpr std::array<std::string_view, 5> kEndings = {".bin", ".pt", ".pth", ".ckpt", ".npz"};
  return std::any_of(kEndings.begin(), kEndings.end(), [&](std::string_view ending) { return file_name.ends_with(ending); });
}

bool is_meta_layout(std::string_view file_name) { return file_name.starts_with("consolidated.") && file_name.ends_with(".pth"); }

void refuse_pickle(const fs::path& file) {
  fail(ErrorKind::data, "pickle is not read", file.string(), "convert the file to safetensors with the line above",
       {std::string(kConversion)});
}

void refuse_meta_layout(const fs::path& file) {
  fail(ErrorKind::data, "Meta's own checkpoint layout is not read", file.string(),
       "convert to Hugging Face layout first (transformers has convert_llama_weights_to_hf.py)");
}

void refuse_foreign(const InputFile& file) {
  const std::string name = file.path().filename().string();
  if (is_meta_layout(name)) refuse_meta_layout(file.path());
  const std::string head = file.read_text(0, std::min(kSniffedBytes, file.size()));
  if (head.starts_with("version https://git-lfs.github.com/spec/")) {
    fail(ErrorKind::data, "the file is a pointer, the weights were not downloaded", file.path().string(),
         "run git lfs pull in the model's folder");
  }
  // A pickle starts with 0x80 and a small protocol number; so does a safetensors file whose header length ends in 0x80, but its ninth byte
  // opens the JSON header.
  const bool opens_json = head.size() > 8 && head[8] == '{';
  if (has_pickle_name(name) || head.starts_with("PK\x03\x04") || (head.starts_with("\x80") && !opens_json)) refuse_pickle(file.path());
}

void refuse_foreign(const std::filesystem::path& file) { refuse_foreign(InputFile(file)); }

}  // namespace longlora
