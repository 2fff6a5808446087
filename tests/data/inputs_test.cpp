#include "longlora/data/inputs.h"

#include <gtest/gtest.h>

#include "longlora/formats/token_file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

std::vector<std::string> names(const TempDir& dir, const std::string& pattern) {
  std::vector<std::string> result;
  for (const fs::path& path : list_inputs(dir.path().string() + "/" + pattern)) result.push_back(fs::relative(path, dir.path()).string());
  return result;
}

TEST(ListInputs, FilesFoldersAndGlobsAreSortedBytewise) {
  TempDir dir;
  for (const char* name :
       {"b.txt", "B.txt", "a10.txt", "a9.txt", "sub/z.md", "sub/deep/c.txt", ".hidden", ".git/x.txt", "odd[1].txt", "sub/\xC3\xA9.txt"})
    dir.write(name, "x");
  using Names = std::vector<std::string>;
  EXPECT_EQ(names(dir, "b.txt"), Names{"b.txt"});
  EXPECT_EQ(names(dir, ""), (Names{"B.txt", "a10.txt", "a9.txt", "b.txt", "odd[1].txt", "sub/deep/c.txt", "sub/z.md", "sub/\xC3\xA9.txt"}));
  EXPECT_EQ(names(dir, "a*.txt"), (Names{"a10.txt", "a9.txt"}));
  EXPECT_EQ(names(dir, "[ab]?.txt"), (Names{"a9.txt"}));
  EXPECT_EQ(names(dir, "odd[1].txt"), Names{"odd[1].txt"});      // a file of that name is meant
  EXPECT_EQ(names(dir, "s*"), (Names{"sub/deep/c.txt", "sub/z.md", "sub/\xC3\xA9.txt"}));
}

TEST(ListInputs, NothingFoundIsMissing) {
  TempDir dir;
  dir.write("empty/.hidden", "x");
  for (const char* pattern : {"absent", "*.nothing", "empty"}) {
    const auto error = thrown_by([&] { names(dir, pattern); });
    ASSERT_TRUE(error) << pattern;
    EXPECT_EQ(error->kind, ErrorKind::missing);
    EXPECT_EQ(error->where, dir.path().string() + "/" + pattern);
  }
}

TEST(InputFormat, IsDecidedByExtensionThenByContent) {
  TempDir dir;
  TokenFileWriter writer(dir / "t.bin", 10, {}, {}, false);
  writer.add_document(std::vector<int32_t>{1});
  writer.finish("{}");
  const std::string llmc("\x88\xD8\x34\x01\x01\x00\x00\x00", 8);
  const std::vector<std::pair<fs::path, InputFormat>> cases = {{dir.write("a.txt", "{"), InputFormat::text},
                                                               {dir.write("a.md", ""), InputFormat::text},
                                                               {dir.write("a.jsonl", "x"), InputFormat::jsonl},
                                                               {dir.write("a.tokens", "x"), InputFormat::tokens},
                                                               {dir / "t.bin", InputFormat::tokens},
                                                               {dir.write("l.bin", llmc + std::string(2000, '\0')), InputFormat::llmc},
                                                               {dir.write("plain", "some text"), InputFormat::text},
                                                               {dir.write("lines", "\n {\"text\":\"a\"}\n"), InputFormat::jsonl},
                                                               {dir.write("one.json", "{\"text\":\"a\"}"), InputFormat::jsonl},
                                                               {dir.write("cut", std::string(4095, 'a') + "\xC3\xA9"), InputFormat::text}};
  for (const auto& [path, format] : cases) EXPECT_EQ(name_of(input_format(path, "auto")), name_of(format)) << path;
  EXPECT_EQ(input_format(dir / "plain", "raw_uint16"), InputFormat::raw_uint16);
}

TEST(InputFormat, RawIdsAreNeverGuessed) {
  TempDir dir;
  for (const auto& [name, content] :
       std::vector<std::pair<std::string, std::string>>{{"a.bin", "abcd"}, {"b", std::string("\x01\x00\x02\x00", 4)}, {"c", "\xFF\xFE"}}) {
    const fs::path path = dir.write(name, content);
    EXPECT_EQ(error_of([&] { input_format(path, "auto"); }),
              "content is neither text nor a token file; headerless uint16 ids are never guessed (" + path.string() +
                  "); set `format: raw_uint16` on the data entry if that is what it is");
  }
}

TEST(InputFormat, LaterAndUnknownFormatsAreNamed) {
  TempDir dir;
  const fs::path path = dir.write("a", "x");
  for (const char* format : {"alpaca", "sharegpt", "messages"}) {
    const auto error = thrown_by([&] { input_format(path, format); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::config);
    EXPECT_EQ(error->what_happened, "format '" + std::string(format) + "' is not in this version");
  }
  EXPECT_EQ(error_of([&] { input_format(path, "txt"); }),
            "format 'txt' is unknown (" + path.string() + "); use auto, text, jsonl, tokens, llmc or raw_uint16");
  EXPECT_EQ(kind_of([&] { input_format(dir.write("a.json", " [{}]"), "auto"); }), ErrorKind::config);
  for (const fs::path& parquet : {dir.write("a.parquet", "x"), dir.write("b", "PAR1")}) {
    const auto error = thrown_by([&] { input_format(parquet, "auto"); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::data);
    EXPECT_NE(error->what_to_do.find("to_json(sys.argv[2],orient='records',lines=True,force_ascii=False)"), std::string::npos);
  }
}

TEST(Identify, IsSizeAndSha256) {
  TempDir dir;
  const std::string content(3'000'001, 'q');
  const SourceIdentity identity = identify(dir.write("x", content));
  EXPECT_EQ(identity.bytes, content.size());
  EXPECT_EQ(identity.digest, sha256(content));
  EXPECT_EQ(identify(dir.write("e", "")).digest, sha256(std::string_view()));
}

}  // namespace
}  // namespace longlora
