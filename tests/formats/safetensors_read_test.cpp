// Well-formed safetensors files, unusual ones included, and what read() delivers.

#include <gtest/gtest.h>

#include "formats/safetensors_builder.h"
#include "longlora/formats/weights.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

std::string bytes_of(const WeightSource& source, std::string_view name, uint64_t begin, size_t count) {
  std::string out(count, '\0');
  source.read(*source.find(name), begin, std::as_writable_bytes(std::span(out)));
  return out;
}

TEST(SafetensorsRead, DeliversNamesShapesAndByteRanges) {
  TempDir dir;
  // file order differs from name order: z first
  const std::string header = header_of({{"z", "F32", {2, 3}, 0, 24}, {"a", "BF16", {4}, 24, 32}, {"scalar", "I64", {}, 32, 40}},
                                       "\"__metadata__\":{\"format\":\"pt\",\"note\":\"\\u00e9\"}");
  const auto source = open_safetensors(dir.write("x.safetensors", file_of(header, counting_bytes(40))));
  ASSERT_EQ(source->tensors().size(), 3u);
  EXPECT_EQ(source->tensors()[0].name, "a");
  EXPECT_EQ(source->tensors()[1].name, "scalar");
  EXPECT_EQ(source->find("z")->shape, (Shape{2, 3}));
  EXPECT_EQ(source->find("z")->bytes, 24u);
  EXPECT_EQ(source->find("scalar")->shape, Shape{});
  EXPECT_EQ(source->find("a")->dtype, DType::bf16);
  EXPECT_EQ(source->find("nothing"), nullptr);
  EXPECT_EQ(bytes_of(*source, "a", 0, 8), counting_bytes(32).substr(24));
  EXPECT_EQ(bytes_of(*source, "z", 5, 7), counting_bytes(12).substr(5));
  EXPECT_EQ(bytes_of(*source, "z", 24, 0), "");
  EXPECT_EQ(source->metadata().at("note"), "\xc3\xa9");
}

TEST(SafetensorsRead, AcceptsEmptyTensorsWhiteSpaceAndNoTensors) {
  TempDir dir;
  const std::string spaced = " \n\t{ \"e\" : { \"shape\" : [ 0 , 7 ] , \"data_offsets\":[0,0],\"dtype\":\"F16\"} ,\r\n" +
                             RawTensor{"f", "U8", {3}, 0, 3}.entry() + "," + RawTensor{"g", "F64", {0}, 3, 3}.entry() + "} \n ";
  const auto source = open_safetensors(dir.write("a.safetensors", file_of(spaced, "abc")));
  EXPECT_EQ(source->find("e")->bytes, 0u);
  EXPECT_EQ(bytes_of(*source, "f", 0, 3), "abc");
  EXPECT_TRUE(open_safetensors(dir.write("b.safetensors", file_of("{}", "")))->tensors().empty());
  EXPECT_TRUE(open_safetensors(dir.write("c.safetensors", file_of("{\"__metadata__\":{}}", "")))->tensors().empty());
}

TEST(SafetensorsRead, KnowsEveryDtype) {
  TempDir dir;
  const std::pair<const char*, uint64_t> sizes[] = {{"F64", 8}, {"F32", 4}, {"F16", 2}, {"BF16", 2}, {"I64", 8},
                                                    {"I32", 4}, {"I16", 2}, {"I8", 1},  {"U8", 1},   {"BOOL", 1}};
  for (const auto& [dtype, size] : sizes) {
    const std::string file = file_of(header_of({{"t", dtype, {3}, 0, 3 * size}}), counting_bytes(3 * size));
    const auto source = open_safetensors(dir.write(std::string(dtype) + ".safetensors", file));
    EXPECT_EQ(name_of(source->find("t")->dtype), dtype);
    EXPECT_EQ(source->find("t")->bytes, 3 * size);
  }
}

TEST(SafetensorsRead, EscapedNamesMeanTheirCharacters) {
  TempDir dir;
  const std::string header = "{\"\\u0061\\\"\\\\\\/\\ud83d\\ude00\":" + RawTensor{"", "U8", {1}, 0, 1}.entry_body() + "}";
  const auto source = open_safetensors(dir.write("x.safetensors", file_of(header, "q")));
  EXPECT_EQ(source->tensors()[0].name, "a\"\\/\xf0\x9f\x98\x80");
}

TEST(SafetensorsRead, NoticesAFileThatChanged) {
  TempDir dir;
  const auto file = dir.write("x.safetensors", file_of(header_of({{"t", "U8", {8}, 0, 8}}), counting_bytes(8)));
  const auto source = open_safetensors(file);
  source->check_unchanged();
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 4);
  EXPECT_EQ(kind_of([&] { source->check_unchanged(); }), ErrorKind::data);
  EXPECT_NE(error_of([&] { bytes_of(*source, "t", 0, 8); }).find("changed while being read"), std::string::npos);
}

TEST(SafetensorsRead, MissingFileIsMissing) {
  TempDir dir;
  EXPECT_EQ(kind_of([&] { open_safetensors(dir / "nothing.safetensors"); }), ErrorKind::missing);
  EXPECT_EQ(kind_of([&] { open_safetensors(dir.path()); }), ErrorKind::data) << "a folder is not a regular file";
}

}  // namespace
}  // namespace longlora
