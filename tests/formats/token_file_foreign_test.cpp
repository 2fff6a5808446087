// llm.c's token files and headerless uint16.
#include <gtest/gtest.h>

#include <cstring>

#include "longlora/formats/token_file.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

template <class T>
std::string raw(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

std::string llmc_header(int32_t magic, int32_t version, int32_t count) {
  std::vector<int32_t> words(256, 0);
  words[0] = magic;
  words[1] = version;
  words[2] = count;
  return raw(words);
}

std::vector<int32_t> all_of(const TokenSource& source) {
  std::vector<int32_t> ids(source.num_tokens());
  source.read(0, ids);
  return ids;
}

std::vector<uint64_t> starts_of(const TokenSource& source) { return {source.document_starts().begin(), source.document_starts().end()}; }

TEST(Llmc, ReadsBothWidthsAndSplitsAfterEos) {
  TempDir dir;
  const auto narrow = open_llmc(dir.write("a.bin", llmc_header(20240520, 1, 5) + raw<uint16_t>({7, 50256, 1, 2, 50256})), 50256);
  EXPECT_EQ(all_of(*narrow), (std::vector<int32_t>{7, 50256, 1, 2, 50256}));
  EXPECT_EQ(starts_of(*narrow), (std::vector<uint64_t>{0, 2, 5}));
  EXPECT_EQ(narrow->largest_id(), 50256u);
  const auto wide = open_llmc(dir.write("b.bin", llmc_header(20240801, 7, 3) + raw<uint32_t>({128000, 1, 2})), std::nullopt);
  EXPECT_EQ(all_of(*wide), (std::vector<int32_t>{128000, 1, 2}));
  EXPECT_EQ(starts_of(*wide), (std::vector<uint64_t>{0, 3}));
}

TEST(Llmc, SizeAndHeaderMustFit) {
  TempDir dir;
  const std::string good = llmc_header(20240520, 1, 2) + raw<uint16_t>({1, 2});
  for (const std::string& bad :
       {good.substr(0, 100), good.substr(0, good.size() - 1), good + "x", llmc_header(20240520, 7, 2) + raw<uint16_t>({1, 2}),
        llmc_header(20240520, 1, -2), llmc_header(20240520, 1, 0), llmc_header(20240801, 7, 2) + raw<uint16_t>({1, 2})})
    EXPECT_EQ(kind_of([&] { open_llmc(dir.write("bad.bin", bad), 0); }), ErrorKind::data) << bad.size();
  const fs::path cut = dir.write("cut.bin", good.substr(0, good.size() - 1));
  EXPECT_EQ(error_of([&] { open_llmc(cut, 0); }), "1027 bytes, but the header's 2 tokens of 2 bytes make 1028 (" + cut.string() +
                                                      "); the file is cut or damaged; write it again");
}

TEST(Llmc, IdsBeyond31BitsAreNoIds) {
  TempDir dir;
  const fs::path path = dir.write("big.bin", llmc_header(20240801, 7, 2) + raw<uint32_t>({1, 0x80000000u}));
  EXPECT_NE(error_of([&] { open_llmc(path, 0); }).find("token id 2147483648 at token 1 does not fit 31 bits"), std::string::npos);
}

TEST(RawUint16, IsOneStreamOrSplitAtEos) {
  TempDir dir;
  const fs::path path = dir.write("x.bin", raw<uint16_t>({3, 2, 65535, 4, 2, 9}));
  const auto stream = open_raw_uint16(path);
  EXPECT_EQ(all_of(*stream), (std::vector<int32_t>{3, 2, 65535, 4, 2, 9}));
  EXPECT_EQ(starts_of(*stream), (std::vector<uint64_t>{0, 6}));
  EXPECT_EQ(stream->largest_id(), 65535u);
  EXPECT_EQ(starts_of(*open_raw_uint16(path, 2)), (std::vector<uint64_t>{0, 2, 5, 6}));
  EXPECT_EQ(stream->content_digest(), sha256(dir.read("x.bin")));
}

TEST(RawUint16, OddOrEmptyFilesAreRefused) {
  TempDir dir;
  EXPECT_EQ(kind_of([&] { open_raw_uint16(dir.write("odd", "abc")); }), ErrorKind::data);
  EXPECT_EQ(kind_of([&] { open_raw_uint16(dir.write("empty", "")); }), ErrorKind::data);
}

TEST(RawUint16, ReadsAcrossBlocks) {
  TempDir dir;
  std::vector<uint16_t> ids(700'001);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<uint16_t>(i * 7919);
  const auto source = open_raw_uint16(dir.write("long", raw(ids)));
  const std::vector<int32_t> read = all_of(*source);
  EXPECT_TRUE(std::equal(ids.begin(), ids.end(), read.begin(), read.end()));
}

TEST(LooksLike, TellsFormatsByTheirFirstBytes) {
  const auto head = [](std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); };
  EXPECT_TRUE(looks_like_token_file(head("LLTOKEN1rest")));
  EXPECT_FALSE(looks_like_token_file(head("LLTOKEN")));
  const std::string llmc = llmc_header(20240801, 7, 1);
  EXPECT_TRUE(looks_like_llmc(head(llmc)));
  EXPECT_FALSE(looks_like_llmc(head("text")));
  EXPECT_FALSE(looks_like_llmc(head("some text")));
}

}  // namespace
}  // namespace longlora
