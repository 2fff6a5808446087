// Tensors of a source against the model's tensor table.

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "formats/problems.h"
#include "longlora/core/log.h"
#include "longlora/formats/weights.h"

namespace longlora {

namespace {

constexpr size_t kShownOfEachKind = 5;
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr size_t kCompareBytes = size_t{1} << 20;

/// First five of each kind; the rest is only counted, in a last line of the kind.
class Offenders {
 public:
  Offenders(Problems& problems, std::string_view kind) : problems_(problems), kind_(kind) {}
  ~Offenders() {
    if (count_ <= kShownOfEachKind) return;
    problems_.add(fmt::format("{} more", count_ - kShownOfEachKind), std::string(kind_));
    problems_.count_more(count_ - kShownOfEachKind - 1);
  }
  void add(std::string_view name, std::string text) {
    if (++count_ <= kShownOfEachKind) problems_.add(fmt::format("tensor {}", escape(name)), std::move(text));
  }

 private:
  Problems& problems_;
  std::string_view kind_;
  size_t count_ = 0;
};

bool is_inverse_frequency(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

bool is_weight_dtype(DType dtype) { return dtype == DType::f64 || dtype == DType::f32 || dtype == DType::f16 || dtype == DType::bf16; }

void check_known(const WeightSource& weights, const ModelConfig& config, const std::map<std::string, const TensorSpec*>& expected,
                 Problems& problems) {
  Offenders unknown(problems, "unknown tensors"), shapes(problems, "tensors of another shape"),
      dtypes(problems, "tensors of another dtype");
  for (const TensorInfo& tensor : weights.tensors()) {
    if (is_inverse_frequency(tensor.name)) {
      log_debug("{} is skipped: frequencies come from config.json", tensor.name);
      continue;
    }
    const auto at = expected.find(tensor.name);
    if (at == expected.end()) {
      if (config.tied && tensor.name == kHead) continue;  // compared with the embedding later
      unknown.add(tensor.name, "expected no such tensor in this architecture, found it");
      continue;
    }
    if (tensor.shape != at->second->shape) {
      shapes.add(tensor.name, fmt::format("expected shape {}, found {}", to_string(at->second->shape), to_string(tensor.shape)));
    }
    if (!is_weight_dtype(tensor.dtype)) {
      dtypes.add(tensor.name, fmt::format("expected dtype F64, F32, F16 or BF16, found {}", name_of(tensor.dtype)));
    }
  }
}

void check_missing(const WeightSource& weights, const std::vector<TensorSpec>& table, Problems& problems) {
  Offenders missing(problems, "missing tensors");
  for (const TensorSpec& spec : table) {
    if (weights.find(spec.name)) continue;
    const bool is_head = spec.name == kHead;
    missing.add(spec.name, fmt::format("expected shape {}, found no such tensor{}", to_string(spec.shape),
                                       is_head ? " (config.json says tie_word_embeddings: false)" : ""));
  }
}

}  // namespace

bool same_tensor(const WeightSource& left, const TensorInfo& a, const WeightSource& right, const TensorInfo& b) {
  if (a.dtype != b.dtype || a.shape != b.shape) return false;
  std::vector<std::byte> left_piece(kCompareBytes), right_piece(kCompareBytes);
  for (uint64_t at = 0; at < a.bytes; at += kCompareBytes) {
    const auto bytes = static_cast<size_t>(std::min<uint64_t>(kCompareBytes, a.bytes - at));
    left.read(a, at, std::span(left_piece).first(bytes));
    right.read(b, at, std::span(right_piece).first(bytes));
    if (!std::equal(left_piece.begin(), left_piece.begin() + static_cast<std::ptrdiff_t>(bytes), right_piece.begin())) return false;
  }
  return true;
}

void check_against_table(const WeightSource& weights, const ModelConfig& config, std::string_view source) {
  const std::vector<TensorSpec> table = tensor_table(config);
  std::map<std::string, const TensorSpec*> expected;
  for (const TensorSpec& spec : table) expected[spec.name] = &spec;
  Problems problems(source);
  check_missing(weights, table, problems);
  check_known(weights, config, expected, problems);
  problems.raise(ErrorKind::data, "the weights and config.json do not belong together; use the files of one model");
  const TensorInfo* head = config.tied ? weights.find(kHead) : nullptr;
  if (head && !same_tensor(weights, *head, weights, *weights.find(kEmbedding))) {
    fail(ErrorKind::data, "expected the bytes of model.embed_tokens.weight (tie_word_embeddings: true), found others",
         fmt::format("{}: tensor {}", source, kHead), "set tie_word_embeddings to false or remove the tensor");
  }
}

}  // namespace longlora
