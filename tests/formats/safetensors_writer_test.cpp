// The writer's bytes against a file put together by hand, its order, digests and shards.

#include <gtest/gtest.h>

#include "formats/safetensors_builder.h"
#include "longlora/formats/weights.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

std::span<const std::byte> as_bytes(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }

TEST(SafetensorsWriter, WritesTheBytesOfTheFormat) {
  TempDir dir;
  SafetensorsWriter writer(dir / "x.safetensors",
                           {{"b", DType::bf16, {2}}, {"z", DType::f32, {1, 2}}, {"a", DType::bf16, {1}}, {"e", DType::f32, {0}}});
  ASSERT_EQ(writer.order().size(), 4u);
  EXPECT_EQ(writer.order()[0].name, "e");  // element size descending, then name
  EXPECT_EQ(writer.order()[1].name, "z");
  EXPECT_EQ(writer.order()[2].name, "a");
  EXPECT_EQ(writer.order()[3].name, "b");
  writer.write(1, as_bytes("0123"));
  writer.write(1, as_bytes("4567"));
  writer.write(2, as_bytes("89"));
  writer.write(3, as_bytes("abcd"));
  const auto result = writer.finish();

  std::string header =
      header_of({{"e", "F32", {0}, 0, 0}, {"z", "F32", {1, 2}, 0, 8}, {"a", "BF16", {1}, 8, 10}, {"b", "BF16", {2}, 10, 14}},
                "\"__metadata__\":{\"format\":\"pt\"}");
  while (header.size() % 8 != 0) header += ' ';
  const std::string expected = file_of(header, "0123456789abcd");
  EXPECT_EQ(dir.read("x.safetensors"), expected);
  EXPECT_EQ(result.file, sha256(expected));
  EXPECT_EQ(result.bytes, expected.size());
  EXPECT_EQ(result.tensors.at("z"), sha256("01234567"));
  EXPECT_EQ(result.tensors.at("e"), sha256(""));
  EXPECT_EQ(result.tensors.size(), 4u);
}

TEST(SafetensorsWriter, SameInputSameBytesInAnyDeclarationOrder) {
  TempDir dir;
  const std::vector<SafetensorsWriter::Declared> tensors = {{"m", DType::u8, {3}}, {"k", DType::u8, {1}}};
  const auto write = [&](const char* name, std::vector<SafetensorsWriter::Declared> declared) {
    SafetensorsWriter writer(dir / name, std::move(declared), {{"note", "\"quoted\"\n"}});
    for (size_t i = 0; i < 2; ++i) writer.write(i, as_bytes(writer.order()[i].name == "m" ? "mmm" : "k"));
    writer.finish();
  };
  write("a.safetensors", tensors);
  write("b.safetensors", {tensors[1], tensors[0]});
  EXPECT_EQ(dir.read("a.safetensors"), dir.read("b.safetensors"));
  EXPECT_EQ(open_safetensors(dir / "a.safetensors")->metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}, {"note", "\"quoted\"\n"}}));
}

TEST(SafetensorsWriter, RefusesWrongUseAndExistingFiles) {
  TempDir dir;
  dir.write("there.safetensors", "x");
  EXPECT_EQ(kind_of([&] { SafetensorsWriter(dir / "there.safetensors", {}); }), ErrorKind::busy);
  SafetensorsWriter writer(dir / "x.safetensors", {{"a", DType::u8, {2}}, {"b", DType::u8, {2}}});
  EXPECT_EQ(kind_of([&] { writer.write(1, as_bytes("bb")); }), ErrorKind::internal) << "out of order";
  EXPECT_EQ(kind_of([&] { writer.write(0, as_bytes("aaa")); }), ErrorKind::internal) << "too many bytes";
  writer.write(0, as_bytes("aa"));
  EXPECT_EQ(kind_of([&] { writer.finish(); }), ErrorKind::internal) << "b is not written";
  EXPECT_EQ(kind_of([&] {
              SafetensorsWriter(dir / "y.safetensors", {{"a", DType::u8, {2}}, {"a", DType::u8, {2}}});
            }),
            ErrorKind::internal);
}

TEST(SafetensorsWriter, BufferAlwaysStartsAligned) {
  TempDir dir;
  for (size_t length = 1; length <= 16; ++length) {
    const std::string name(length, 'n');
    SafetensorsWriter writer(dir / (name + ".safetensors"), {{name, DType::u8, {1}}});
    writer.write(0, as_bytes("q"));
    writer.finish();
    EXPECT_EQ(open_safetensors(dir / (name + ".safetensors"))->find(name)->offset % 8, 0u) << length;
  }
}

TEST(PlanShards, IsGreedyInOrder) {
  using Shards = std::vector<uint32_t>;
  EXPECT_EQ(plan_shards(std::vector<uint64_t>{3, 3, 3, 1}, 6), (Shards{0, 0, 1, 1}));
  EXPECT_EQ(plan_shards(std::vector<uint64_t>{9, 1, 9}, 6), (Shards{0, 1, 2})) << "a tensor larger than a shard stands alone";
  EXPECT_EQ(plan_shards(std::vector<uint64_t>{6, 1}, 6), (Shards{0, 1}));
  EXPECT_EQ(plan_shards(std::vector<uint64_t>{}, 6), Shards{});
  EXPECT_EQ(plan_shards(std::vector<uint64_t>{UINT64_MAX, 1}, 6), (Shards{0, 1}));
  EXPECT_EQ(shard_name(0, 1), "model.safetensors");
  EXPECT_EQ(shard_name(0, 3), "model-00001-of-00003.safetensors");
  EXPECT_EQ(shard_name(2, 3), "model-00003-of-00003.safetensors");
}

TEST(WeightIndexText, IsSortedAndSaysTheTotals) {
  EXPECT_EQ(make_weight_index({{"b", "y.safetensors"}, {"a", "x.safetensors"}}, 12, 3),
            "{\n  \"metadata\": {\n    \"total_parameters\": 3,\n    \"total_size\": 12\n  },\n  \"weight_map\": {\n    \"a\": "
            "\"x.safetensors\",\n"
            "    \"b\": \"y.safetensors\"\n  }\n}\n");
}

}  // namespace
}  // namespace longlora
