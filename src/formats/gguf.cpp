#include "longlora/formats/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "formats/gguf_blocks.h"
#include "formats/gguf_header.h"
#include "formats/gguf_model.h"
#include "formats/safetensors_file.h"
#include "longlora/core/error.h"

namespace longlora {

namespace {

constexpr uint64_t kPieceBytes = uint64_t{1} << 20;
constexpr std::string_view kDivisors = "rope_freqs.weight";

/// Rows of q and k are stored interleaved: HF row H d + p d/2 + i is row H d + 2 i + p of the file.
uint64_t stored_row(uint64_t row, uint64_t head_dim) {
  const uint64_t in_head = row % head_dim, half = in_head / (head_dim / 2), i = in_head % (head_dim / 2);
  return row - in_head + 2 * i + half;
}

struct OpenGguf {
  InputFile file;
  GgufHeader header;
  ModelConfig config;
  TokenizerParts tokenizer;

  explicit OpenGguf(const fs::path& path) : file(path), header(read_gguf_header(file)) {
    const std::string source = file.path().string();
    config = gguf_model_config(header, source);
    tokenizer = gguf_tokenizer(header, source);
    for (const GgufTensor& tensor : header.tensors) {
      if (tensor.name == kDivisors) add_divisors(tensor, source);
    }
  }

  void add_divisors(const GgufTensor& tensor, const std::string& source) {
    const std::string where = fmt::format("{}: tensor {}", source, kDivisors);
    LONGLORA_CHECK(tensor.shape == Shape{config.head_dim / 2}, data,
                   fmt::format("expected shape [{}], found {}", config.head_dim / 2, to_string(tensor.shape)), where,
                   "convert the model again with a current converter");
    LONGLORA_CHECK(config.rope.type == RopeType::none, data, "expected no rope.scaling.type beside the divisors, found one", where,
                   "convert the model again with a current converter");
    std::vector<float> divisors(static_cast<size_t>(tensor.shape[0]));
    read_rows(tensor, 0, 1, divisors);
    config.rope = llama3_of_divisors(divisors, config.rope.theta, source);
    config = checked_config(config, source);
  }

  /// Whole rows, contiguous in the file, as fp32.
  void read_rows(const GgufTensor& tensor, uint64_t first, uint64_t rows, std::span<float> out) const {
    const GgufBlock& block = *gguf_block(tensor.type);
    const uint64_t row_bytes = static_cast<uint64_t>(tensor.shape.back()) / block.elements * block.bytes;
    const uint64_t row_elements = static_cast<uint64_t>(tensor.shape.back());
    const uint64_t rows_a_piece = std::max<uint64_t>(1, kPieceBytes / row_bytes);
    std::vector<std::byte> stored(std::min(rows, rows_a_piece) * row_bytes);
    for (uint64_t row = 0; row < rows; row += rows_a_piece) {
      const uint64_t count = std::min(rows_a_piece, rows - row);
      const auto bytes = std::span(stored).first(count * row_bytes);
      file.read(tensor.offset + (first + row) * row_bytes, bytes);
      if (const auto bad = dequantise(block, bytes, out.subspan(row * row_elements, count * row_elements))) {
        fail(ErrorKind::data,
             fmt::format("expected a finite scale, block {} has NaN or infinity", (first + row) * row_bytes / block.bytes + *bad),
             fmt::format("{}: tensor {}", file.path().string(), escape(tensor.name)), "download the file again");
      }
    }
  }
};

class GgufWeights final : public WeightSource {
 public:
  explicit GgufWeights(std::shared_ptr<const OpenGguf> gguf) : gguf_(std::move(gguf)) {
    const auto& tensors = gguf_->header.tensors;
    for (size_t i = 0; i < tensors.size(); ++i) {
      const GgufTensor& stored = tensors[i];
      if (stored.name == kDivisors) continue;
      infos_.push_back({.name = hugging_face_name(stored.name),
                        .dtype = DType::f32,
                        .shape = stored.shape,
                        .offset = stored.offset,
                        .bytes = num_elements(stored.shape) * sizeof(float)});
      by_offset_[stored.offset] = i;
    }
    std::sort(infos_.begin(), infos_.end(), [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  }
  std::span<const TensorInfo> tensors() const override { return infos_; }
  void read(const TensorInfo& info, uint64_t begin, std::span<std::byte> out) const override;
  std::vector<fs::path> files() const override { return {gguf_->file.path()}; }
  const std::map<std::string, std::string>& metadata() const override { return metadata_; }
  void check_unchanged() const override { gguf_->file.check_unchanged(); }

 private:
  std::shared_ptr<const OpenGguf> gguf_;
  std::vector<TensorInfo> infos_;
  std::map<uint64_t, size_t> by_offset_;  // ranges are disjoint: an offset names one tensor
  std::map<std::string, std::string> metadata_;
};

void GgufWeights::read(const TensorInfo& info, uint64_t begin, std::span<std::byte> out) const {
  check_range(info, begin, out.size());
  const GgufTensor& stored = gguf_->header.tensors[by_offset_.at(info.offset)];
  const uint64_t row_elements = static_cast<uint64_t>(stored.shape.back()), row_bytes = row_elements * sizeof(float);
  LONGLORA_INVARIANT(begin % row_bytes == 0 && out.size() % row_bytes == 0);
  const uint64_t first = begin / row_bytes, rows = out.size() / row_bytes;
  const uint64_t head_dim = static_cast<uint64_t>(gguf_->config.head_dim);
  const bool is_interleaved = info.name.ends_with(".self_attn.q_proj.weight") || info.name.ends_with(".self_attn.k_proj.weight");
  // the caller's buffer is for tensors and aligned for floats; a copy keeps this true for any buffer
  const bool is_aligned = reinterpret_cast<uintptr_t>(out.data()) % alignof(float) == 0;
  std::vector<float> copy(is_aligned ? 0 : rows * row_elements);
  const std::span<float> values(is_aligned ? reinterpret_cast<float*>(out.data()) : copy.data(), rows * row_elements);
  if (!is_interleaved) {
    gguf_->read_rows(stored, first, rows, values);
  } else {
    for (uint64_t row = 0; row < rows; ++row) {
      gguf_->read_rows(stored, stored_row(first + row, head_dim), 1, values.subspan(row * row_elements, row_elements));
    }
  }
  if (!is_aligned) std::memcpy(out.data(), copy.data(), out.size());
}

}  // namespace

struct GgufFile::State : OpenGguf {
  using OpenGguf::OpenGguf;
};

GgufFile::GgufFile(const std::filesystem::path& path) : state_(std::make_shared<State>(path)) {
  check_against_table(*weights(), state_->config, path.string());
}

GgufFile::~GgufFile() = default;

const ModelConfig& GgufFile::config() const { return state_->config; }
const TokenizerParts& GgufFile::tokenizer() const { return state_->tokenizer; }
std::unique_ptr<WeightSource> GgufFile::weights() const { return std::make_unique<GgufWeights>(state_); }

}  // namespace longlora
