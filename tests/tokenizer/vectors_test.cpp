// Frozen vectors of published tokenizers. Their files are fetched by scripts/setup.sh and never committed; without them a line says so.
#include <gtest/gtest.h>

#include <fstream>

#include "longlora/core/error.h"
#include "tokenizer/support.h"

namespace longlora {
namespace {

std::unique_ptr<Tokenizer> published(const std::string& name) {
  const std::filesystem::path folder = std::filesystem::path(LONGLORA_SOURCE_DIR) / ".deps" / "vectors" / name;
  return has_tokenizer(folder) ? load_tokenizer(folder) : nullptr;
}

#define REQUIRE_PUBLISHED(tokenizer, name) \
  const auto tokenizer = published(name);  \
  if (!tokenizer) GTEST_SKIP() << "skipped: .deps/vectors/" name " is absent; scripts/setup.sh fetches it"

TEST(Vectors, Llama2) {
  REQUIRE_PUBLISHED(tokenizer, "llama2");
  const struct { std::string text; Ids ids; } table[] = {
      {"grabbed", {1, 2646, 1327, 287}},
      {" grabbed", {1, 29871, 2646, 1327, 287}},
      {"           grabbed", {1, 9651, 2646, 1327, 287}},
      {"\n", {1, 29871, 13}},
      {" \n", {1, 259, 13}},
      {"\u9547", {1, 29871, 30411}},
      {"\U0001F999", {1, 29871, 243, 162, 169, 156}},
  };
  for (const auto& row : table) {
    EXPECT_EQ(tokenizer->encode(row.text, {.add_bos = true}), row.ids) << escape(row.text);
    EXPECT_EQ(tokenizer->decode(row.ids), row.text);
  }
  EXPECT_EQ(tokenizer->encode("    Hello\n    Hello"), (Ids{268, 15043, 13, 1678, 15043}));
  EXPECT_EQ(tokenizer->vocab_size(), 32'000);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_FALSE(tokenizer->adds_eos());
}

TEST(Vectors, MistralV1) {
  REQUIRE_PUBLISHED(tokenizer, "mistral_v1");
  const Ids ids{1, 733, 16289, 28793, 17121, 22526, 13, 13, 28708, 733, 28748, 16289, 28793};
  EXPECT_EQ(tokenizer->encode("[INST] SYSTEM\n\na [/INST]", {.add_bos = true}), ids);
  EXPECT_EQ(tokenizer->decode(ids), "[INST] SYSTEM\n\na [/INST]");
  EXPECT_EQ(tokenizer->vocab_size(), 32'000);
}

TEST(Vectors, MistralV3) {
  REQUIRE_PUBLISHED(tokenizer, "mistral_v3");
  EXPECT_EQ(tokenizer->vocab_size(), 32'768);
  EXPECT_EQ(tokenizer->encode("[INST]", {.parse_special = true}), (Ids{3}));
  EXPECT_EQ(tokenizer->id_of("[INST]"), 3);
}

TEST(Vectors, BooksSurvive) {
  REQUIRE_PUBLISHED(tokenizer, "llama2");
  const auto path = std::filesystem::path(LONGLORA_SOURCE_DIR) / ".deps" / "texts" / "emma.txt";
  std::ifstream file(path, std::ios::binary);
  if (!file) GTEST_SKIP() << "skipped: .deps/texts/emma.txt is absent; scripts/setup.sh fetches it";
  const std::string book{std::istreambuf_iterator<char>(file), {}};
  const Ids ids = tokenizer->encode(book);
  EXPECT_EQ(ids.size(), 236'433u);   // counted with the reference
  EXPECT_EQ(tokenizer->decode(ids), book);
}

}  // namespace
}  // namespace longlora
