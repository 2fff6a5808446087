// data.md D4: a token file comes back as it was written; any damage is ErrorKind::data before an id is used.
#include "longlora/formats/token_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>

#include "formats/token_file_layout.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

constexpr std::string_view kMetadata = R"({"made_by":"test"})";

struct Document { std::vector<int32_t> ids; std::vector<TokenSpan> spans; };

fs::path write_tokens(const fs::path& path, const std::vector<Document>& documents, uint32_t vocab_size, bool with_spans) {
  TokenFileWriter writer(path, vocab_size, sha256("tokenizer"), sha256("key"), with_spans);
  for (const Document& d : documents) writer.add_document(d.ids, d.spans);
  writer.finish(std::string(kMetadata));
  return path;
}

/// Three documents of 4, 1 and 6 tokens with two spans: every section is present and needs padding.
fs::path write_small(const TempDir& dir) {
  return write_tokens(dir / "small.tokens", {{{1, 2, 3, 4}, {{1, 3}}}, {{9}, {}}, {{5, 6, 7, 8, 9, 10}, {{2, 4}}}}, 11, true);
}

std::string bytes_of(const fs::path& path) { return read_file(path, uint64_t{1} << 24); }

/// Changes the header, makes its digest right again.
std::string with_header(std::string bytes, const std::function<void(TokenFileHeader&)>& change) {
  TokenFileHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  change(header);
  header.header_digest = header_digest_of(header);
  std::memcpy(bytes.data(), &header, sizeof(header));
  return bytes;
}

/// Changes the content, makes both digests right again: only the rules can find the fault.
std::string with_payload(std::string bytes, const std::function<void(char* content)>& change) {
  change(bytes.data());
  return with_header(bytes, [&](TokenFileHeader& h) { h.payload = sha256(std::string_view(bytes).substr(sizeof(h))); });
}

/// Flips every bit of bytes [begin, end), one at a time, in place.
void expect_flips_found(const TempDir& dir, const std::string& bytes, size_t begin, size_t end) {
  const fs::path path = dir.write("damaged", bytes);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](size_t at, int byte) { file.seekp(static_cast<int64_t>(at)).put(static_cast<char>(byte)).flush(); };
  for (size_t bit = begin * 8; bit < end * 8; ++bit) {
    put(bit / 8, bytes[bit / 8] ^ (1 << bit % 8));
    EXPECT_EQ(kind_of([&] { open_token_file(path); }), ErrorKind::data) << "bit " << bit;
    put(bit / 8, bytes[bit / 8]);
  }
  EXPECT_EQ(open_token_file(path)->num_tokens(), 11u);
}

TEST(TokenFile, ComesBackAsWritten) {
  std::mt19937 random(1);
  for (const uint32_t vocab_size : {1u, 300u, 65536u, 65537u, 200000u}) {
    for (const bool with_spans : {false, true}) {
      TempDir dir;
      std::vector<Document> documents(1 + random() % 40);
      std::vector<int32_t> all;
      std::vector<uint64_t> starts{0};
      std::vector<TokenSpan> spans;
      for (Document& d : documents) {
        d.ids.resize(1 + random() % 70);
        for (int32_t& id : d.ids) id = static_cast<int32_t>(random() % vocab_size);
        if (with_spans && d.ids.size() > 2) d.spans = {{1, 2}, {2, d.ids.size()}};
        for (const TokenSpan s : d.spans) spans.push_back({s.begin + all.size(), s.end + all.size()});
        all.insert(all.end(), d.ids.begin(), d.ids.end());
        starts.push_back(all.size());
      }
      const auto source = open_token_file(write_tokens(dir / "x.tokens", documents, vocab_size, with_spans));
      ASSERT_EQ(source->num_tokens(), all.size());
      std::vector<int32_t> read(all.size());
      source->read(0, read);
      EXPECT_EQ(read, all);
      EXPECT_EQ(std::vector(source->document_starts().begin(), source->document_starts().end()), starts);
      ASSERT_EQ(source->target_spans().size(), spans.size());
      for (size_t i = 0; i < spans.size(); ++i) {
        EXPECT_EQ(source->target_spans()[i].begin, spans[i].begin);
        EXPECT_EQ(source->target_spans()[i].end, spans[i].end);
      }
      EXPECT_EQ(source->largest_id(), static_cast<uint32_t>(*std::max_element(all.begin(), all.end())));
      EXPECT_EQ(source->vocab_size(), vocab_size);
      EXPECT_EQ(source->tokenizer_digest(), sha256("tokenizer"));
      EXPECT_EQ(source->key(), sha256("key"));
      EXPECT_EQ(source->metadata_json(), kMetadata);
      const uint64_t first = random() % all.size();
      std::vector<int32_t> some(random() % (all.size() - first + 1));
      source->read(first, some);
      EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin() + static_cast<int64_t>(first)));
    }
  }
}

TEST(TokenFile, SectionsStandAtMultiplesOf64AndTileTheFile) {
  TempDir dir;
  const std::string bytes = bytes_of(write_small(dir));
  TokenFileHeader h;
  std::memcpy(&h, bytes.data(), sizeof(h));
  EXPECT_EQ(bytes.substr(0, 8), "LLTOKEN1");
  EXPECT_EQ(h.tokens_offset, 256u);      // 11 tokens of 2 bytes
  EXPECT_EQ(h.index_offset, 320u);       // 4 starts of 8 bytes
  EXPECT_EQ(h.spans_offset, 384u);       // 2 spans of 16 bytes
  EXPECT_EQ(h.metadata_offset, 448u);
  EXPECT_EQ(bytes.size(), 448u + kMetadata.size());
}

TEST(TokenFile, EveryFlippedHeaderBitIsFound) {
  TempDir dir;
  const std::string bytes = bytes_of(write_small(dir));
  expect_flips_found(dir, bytes, 0, 256);
}

TEST(TokenFile, EveryFlippedPayloadBitIsFound) {
  TempDir dir;
  const std::string bytes = bytes_of(write_small(dir));
  expect_flips_found(dir, bytes, 256, bytes.size());
}

TEST(TokenFile, EveryTruncationAndAnExtensionAreFound) {
  TempDir dir;
  const std::string bytes = bytes_of(write_small(dir));
  for (size_t length = 0; length < bytes.size(); ++length) {
    const fs::path path = dir.write("cut", bytes.substr(0, length));
    EXPECT_EQ(kind_of([&] { open_token_file(path); }), ErrorKind::data) << "length " << length;
  }
  const fs::path longer = dir.write("longer", bytes + '\0');
  EXPECT_EQ(error_of([&] { open_token_file(longer); }), "the header's sections end at byte 466, the file at 467 (" + longer.string() +
                                                          "); the file is damaged; make it again with `longlora-train tokenize`");
}

TEST(TokenFile, RulesHoldEvenWithRightDigests) {
  TempDir dir;
  const std::string bytes = bytes_of(write_small(dir));
  const auto put64 = [](size_t at, uint64_t value) { return [=](char* content) { std::memcpy(content + at, &value, 8); }; };
  struct Case { std::string bytes, message; };
  const std::vector<Case> cases = {
      {with_header(bytes, [](auto& h) { h.version = 2; }), "token file version 2 with 256 header bytes, expected 1 with 256"},
      {with_header(bytes, [](auto& h) { h.token_bytes = 4; }), "4 bytes a token for a vocabulary of 11"},
      {with_header(bytes, [](auto& h) { h.flags = 3; }), "unknown flags 0x3"},
      {with_header(bytes, [](auto& h) { h.largest_id = 11; }), "largest id 11 is outside the vocabulary of 11"},
      {with_header(bytes, [](auto& h) { h.largest_id = 9; }), "largest id is 10 at token 10, the header says 9"},
      {with_header(bytes, [](auto& h) { h.tokens = uint64_t{1} << 63; }),
       "9223372036854775808 x 2 does not fit in 64 bits (tokens of a token file)"},
      {with_header(bytes, [](auto& h) { h.documents = ~uint64_t{0}; }), "documents"},
      {with_header(bytes, [](auto& h) { h.spans = uint64_t{1} << 60; }), "spans"},
      {with_header(bytes, [](auto& h) { h.index_offset = 384; }), "section offsets do not tile the file"},
      {with_header(bytes, [](auto& h) { h.metadata_bytes = (uint64_t{1} << 20) + 1; }),
       "1048577 bytes of metadata, at most 1 MiB is allowed"},
      {with_header(bytes, [](auto& h) { h.zero[5] = 1; }), "reserved header bytes are not zero"},
      {with_header(bytes, [](auto& h) { h.payload[0] ^= 1; }), "the content does not match its SHA-256"},
      {with_payload(bytes, put64(320, 1)), "the document index does not run from 0 to the number of tokens"},
      {with_payload(bytes, put64(328, 5)), "document 1 of the index is empty or runs backwards"},
      {with_payload(bytes, put64(384, 3)), "span 0 is empty, unsorted or overlaps"},
      {with_payload(bytes, put64(392, 5)), "span 0 crosses a document"},
      {with_payload(bytes, put64(400, 2)), "span 1 is empty, unsorted or overlaps"},
      {with_payload(bytes, [](char* c) { c[300] = 1; }), "padding at byte 278 is not zero"},
      {with_payload(bytes, [](char* c) { c[448] = '['; }), "metadata"},
  };
  for (const Case& c : cases) {
    const fs::path path = dir.write("wrong", c.bytes);
    const auto error = thrown_by([&] { open_token_file(path); });
    ASSERT_TRUE(error) << c.message;
    EXPECT_EQ(error->kind, ErrorKind::data);
    EXPECT_NE(std::string(error->what()).find(c.message), std::string::npos) << error->what() << "\nexpected: " << c.message;
  }
}

TEST(TokenFile, AnythingElseIsNamed) {
  TempDir dir;
  EXPECT_EQ(kind_of([&] { open_token_file(dir / "absent"); }), ErrorKind::missing);
  EXPECT_EQ(kind_of([&] { open_token_file(dir.path()); }), ErrorKind::data);
  const fs::path text = dir.write("text", std::string(300, 'x'));
  EXPECT_NE(error_of([&] { open_token_file(text); }).find("does not begin with LLTOKEN1"), std::string::npos);
}

TEST(TokenFile, FileCutWhileInUseIsAnErrorAndNoSignal) {
  TempDir dir;
  const fs::path path = write_small(dir);
  const auto source = open_token_file(path);
  fs::resize_file(path, 260);
  std::vector<int32_t> ids(11);
  EXPECT_EQ(kind_of([&] { source->read(0, ids); }), ErrorKind::data);
}

TEST(TokenFileWriter, LeavesNothingWithoutFinish) {
  TempDir dir;
  {
    TokenFileWriter writer(dir / "x.tokens", 10, {}, {}, false);
    writer.add_document(std::vector<int32_t>{1, 2});
    EXPECT_FALSE(fs::exists(dir / "x.tokens"));
    EXPECT_FALSE(fs::is_empty(dir.path()));
  }
  EXPECT_TRUE(fs::is_empty(dir.path()));
}

TEST(TokenFileWriter, NeverReplacesUnasked) {
  TempDir dir;
  const fs::path path = dir.write("x.tokens", "precious");
  const auto write = [&](bool replace) {
    TokenFileWriter writer(path, 10, {}, {}, false);
    writer.replace = replace;
    writer.add_document(std::vector<int32_t>{1, 2});
    writer.finish("{}");
  };
  EXPECT_EQ(kind_of([&] { write(false); }), ErrorKind::busy);
  EXPECT_EQ(dir.read("x.tokens"), "precious");
  write(true);
  EXPECT_EQ(open_token_file(path)->num_tokens(), 2u);
}

TEST(TokenFileWriter, RefusesIdsOutsideTheVocabularyAndNoDocuments) {
  TempDir dir;
  TokenFileWriter writer(dir / "x.tokens", 10, {}, {}, false);
  EXPECT_EQ(kind_of([&] { writer.finish("{}"); }), ErrorKind::data);
  writer.add_document(std::vector<int32_t>{1});
  EXPECT_EQ(error_of([&] {
              writer.add_document(std::vector<int32_t>{3, 10});
            }),
            "token id 10 is outside the vocabulary of 10 (" + (dir / "x.tokens").string() +
                ": document 1, position 1); use the tokenizer of the model");
  EXPECT_EQ(kind_of([&] { writer.add_document(std::vector<int32_t>{-1}); }), ErrorKind::data);
}

}  // namespace
}  // namespace longlora
