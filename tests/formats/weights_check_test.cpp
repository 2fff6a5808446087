// Tensors of a file against the table of the model.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/safetensors_builder.h"
#include "longlora/formats/weights.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::Contains;
using testing::HasSubstr;

ModelConfig tiny(bool tied) {
  return {.vocab_size = 5,
          .hidden_size = 8,
          .intermediate_size = 12,
          .num_layers = 2,
          .num_heads = 4,
          .num_kv_heads = 2,
          .head_dim = 2,
          .tied = tied};
}

std::vector<RawTensor> tensors_of(const ModelConfig& config) {
  std::vector<RawTensor> tensors;
  for (const TensorSpec& spec : tensor_table(config)) tensors.push_back({spec.name, "BF16", {spec.shape.begin(), spec.shape.end()}});
  return tensors;
}

/// Lays the tensors out and opens them; the payload counts.
std::unique_ptr<WeightSource> opened(const TempDir& dir, std::vector<RawTensor> tensors,
                                     const std::function<void(std::string&)>& edit = {}) {
  uint64_t at = 0;
  for (RawTensor& t : tensors) {
    uint64_t bytes = t.dtype == "I32" ? 4 : 2;
    for (const uint64_t d : t.shape) bytes *= d;
    t.begin = at;
    t.end = at += bytes;
  }
  std::string payload = counting_bytes(at);
  if (edit) edit(payload);
  return open_safetensors(dir.write("x.safetensors", file_of(header_of(tensors), payload)));
}

TEST(CheckAgainstTable, AcceptsWhatTheTableSays) {
  TempDir dir;
  for (const bool tied : {false, true}) EXPECT_NO_THROW(check_against_table(*opened(dir, tensors_of(tiny(tied))), tiny(tied), "M"));
  auto tensors = tensors_of(tiny(false));
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "I32", {1}});
  EXPECT_NO_THROW(check_against_table(*opened(dir, tensors), tiny(false), "M")) << "frequencies are skipped";
}

TEST(CheckAgainstTable, NamesEveryTensorThatIsMissingOrOfAnotherShape) {
  TempDir dir;
  const auto good = tensors_of(tiny(false));
  for (size_t i = 0; i < good.size(); ++i) {
    auto missing = good;
    missing.erase(missing.begin() + static_cast<std::ptrdiff_t>(i));
    const auto one = thrown_by([&] { check_against_table(*opened(dir, missing), tiny(false), "M"); });
    ASSERT_TRUE(one) << good[i].name;
    EXPECT_EQ(one->kind, ErrorKind::data);
    EXPECT_EQ(one->where, "M: tensor " + good[i].name);
    EXPECT_THAT(one->what_happened, HasSubstr("found no such tensor"));
    auto reshaped = good;
    reshaped[i].shape[0] += 1;
    const auto two = thrown_by([&] { check_against_table(*opened(dir, reshaped), tiny(false), "M"); });
    ASSERT_TRUE(two) << good[i].name;
    EXPECT_THAT(two->what_happened, HasSubstr("expected shape ["));
    EXPECT_EQ(two->where, "M: tensor " + good[i].name);
  }
}

TEST(CheckAgainstTable, RefusesUnknownTensorsAndIntegers) {
  TempDir dir;
  auto tensors = tensors_of(tiny(false));
  tensors.push_back({"model.layers.2.mlp.up_proj.weight", "BF16", {1}});
  EXPECT_THAT(error_of([&] { check_against_table(*opened(dir, tensors), tiny(false), "M"); }),
              HasSubstr("expected no such tensor in this architecture"));
  tensors = tensors_of(tiny(false));
  tensors[3].dtype = "I32";
  EXPECT_THAT(error_of([&] { check_against_table(*opened(dir, tensors), tiny(false), "M"); }),
              HasSubstr("expected dtype F64, F32, F16 or BF16, found I32"));
}

TEST(CheckAgainstTable, ShowsFiveOfAKindAndCountsAll) {
  TempDir dir;
  std::vector<RawTensor> tensors;
  for (int i = 0; i < 9; ++i) tensors.push_back({"extra." + std::to_string(i), "BF16", {1}});
  const auto error = thrown_by([&] { check_against_table(*opened(dir, tensors), tiny(true), "M"); });
  ASSERT_TRUE(error);
  EXPECT_THAT(error->what_happened,
              HasSubstr("29 problems, the first: expected shape [5, 8], found no such tensor"));  // 20 missing, 9 unknown
  EXPECT_EQ(error->details.size(), 12u);
  EXPECT_THAT(error->details, Contains("M: 15 more: missing tensors"));
  EXPECT_THAT(error->details, Contains("M: 4 more: unknown tensors"));
}

TEST(CheckAgainstTable, TiedHeadMustEqualTheEmbedding) {
  TempDir dir;
  auto tensors = tensors_of(tiny(true));
  tensors.push_back({"lm_head.weight", "BF16", {5, 8}});
  const auto copy_embedding = [](std::string& payload) { payload.replace(payload.size() - 80, 80, payload.substr(0, 80)); };
  EXPECT_NO_THROW(check_against_table(*opened(dir, tensors, copy_embedding), tiny(true), "M"));
  const auto differ = [&](std::string& payload) {
    copy_embedding(payload);
    payload.back() = static_cast<char>(payload.back() ^ 1);
  };
  const auto error = thrown_by([&] { check_against_table(*opened(dir, tensors, differ), tiny(true), "M"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->where, "M: tensor lm_head.weight");
  EXPECT_EQ(error->kind, ErrorKind::data);
}

TEST(CheckAgainstTable, UntiedWithoutHeadSaysWhy) {
  TempDir dir;
  EXPECT_THAT(error_of([&] { check_against_table(*opened(dir, tensors_of(tiny(true))), tiny(false), "M"); }),
              HasSubstr("tie_word_embeddings: false"));
}

}  // namespace
}  // namespace longlora
