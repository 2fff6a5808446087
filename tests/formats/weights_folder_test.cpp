// Folders: which file wins, index and shards in bijection, foreign files, symlinks.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "formats/safetensors_builder.h"
#include "formats/weights_index.h"
#include "longlora/formats/weights.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::HasSubstr;

std::string shard(std::vector<std::string> names) {
  std::vector<RawTensor> tensors;
  for (uint64_t i = 0; i < names.size(); ++i) tensors.push_back({names[i], "U8", {1}, i, i + 1});
  return file_of(header_of(tensors), std::string(names.size(), names.empty() ? 'x' : names[0][0]));
}

std::string index_of(std::vector<std::pair<std::string, std::string>> map, std::string metadata = "{\"total_size\": 4}") {
  std::string json = "{\"metadata\": " + metadata + ", \"weight_map\": {";
  for (size_t i = 0; i < map.size(); ++i) json += (i ? ", \"" : "\"") + map[i].first + "\": \"" + map[i].second + "\"";
  return json + "}}";
}

constexpr const char* kIndex = "model.safetensors.index.json";
constexpr const char* kOne = "model-00001-of-00002.safetensors";
constexpr const char* kTwo = "model-00002-of-00002.safetensors";

/// a, c in the first shard; b, d in the second.
void write_good(const TempDir& dir) {
  dir.write(kOne, shard({"a", "c"}));
  dir.write(kTwo, shard({"b", "d"}));
  dir.write(kIndex, index_of({{"a", kOne}, {"c", kOne}, {"b", kTwo}, {"d", kTwo}}));
}

TEST(WeightFolder, ReadsShardsThroughTheIndex) {
  TempDir dir;
  write_good(dir);
  const auto source = open_weight_folder(dir.path());
  ASSERT_EQ(source->tensors().size(), 4u);
  std::string names, bytes;
  for (const TensorInfo& t : source->tensors()) {
    char byte = 0;
    source->read(t, 0, std::as_writable_bytes(std::span(&byte, 1)));
    names += t.name;
    bytes += byte;
  }
  EXPECT_EQ(names, "abcd");
  EXPECT_EQ(bytes, "abab");
  EXPECT_EQ(source->files().size(), 2u);
  source->check_unchanged();
}

TEST(WeightFolder, SingleFileWinsOverAnIndex) {
  TempDir dir;
  write_good(dir);
  dir.write("model.safetensors", shard({"only"}));
  EXPECT_EQ(open_weight_folder(dir.path())->tensors()[0].name, "only");
}

TEST(WeightFolder, WrongTotalsAndUnlistedShardsAreTolerated) {
  TempDir dir;
  write_good(dir);
  dir.write("model-00009-of-00009.safetensors", "not even safetensors");
  for (const char* metadata :
       {"{}", "{\"total_size\": 5}", "{\"total_size\": 4.0, \"other\": [1, {\"x\": null}]}", "{\"total_size\": \"4\"}"}) {
    dir.write(kIndex, index_of({{"a", kOne}, {"c", kOne}, {"b", kTwo}, {"d", kTwo}}, metadata));
    EXPECT_EQ(open_weight_folder(dir.path())->tensors().size(), 4u) << metadata;
  }
  dir.write(kIndex, "{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\", \"c\": \"model-00001-of-00002.safetensors\"}}");
  EXPECT_EQ(open_weight_folder(dir.path())->tensors().size(), 2u) << "metadata may be absent";
}

TEST(WeightFolder, RefusesIndexesThatDoNotFit) {
  struct Case {
    std::string index;
    const char* message;
  };
  std::vector<Case> cases = {
      {index_of({{"a", kOne}, {"c", kOne}, {"b", kTwo}}), "the tensor of model-00002-of-00002.safetensors is not mapped to this shard"},
      {index_of({{"a", kOne}, {"c", kTwo}, {"b", kTwo}, {"d", kTwo}}),
       "expected the tensor in model-00002-of-00002.safetensors, it is not there"},
      {index_of({{"a", kOne}, {"c", kOne}, {"b", kTwo}, {"d", kTwo}, {"e", kTwo}}),
       "expected the tensor in model-00002-of-00002.safetensors"},
      {index_of({{"a", kOne}, {"c", kOne}, {"b", kTwo}, {"d", kTwo}, {"a", kOne}}), "expected every tensor once, found it twice"},
      {index_of({{"a", kOne}, {"a", kTwo}, {"c", kOne}, {"b", kTwo}, {"d", kTwo}}), "expected every tensor once, found it twice"},
      {"{\"metadata\": {}}", "expected an object, found none"},
      {"{}", "expected an object, found none"},
      {"[]", "expected '{'"},
      {"", "expected '{'"},
      {"{\"weight_map\": []}", "expected '{'"},
      {"{\"weight_map\": {\"a\": 1}}", "a shard name (a string)"},
      {"{\"weight_map\": {\"a\": null}}", "a shard name (a string)"},
      {"{\"weight_map\": {}, \"weight_map\": {}}", "metadata and weight_map once each, not 'weight_map'"},
      {"{\"metadata\": {}, \"metadata\": {}, \"weight_map\": {}}", "metadata and weight_map once each"},
      {"{\"weight_map\": {}, \"extra\": 1}", "metadata and weight_map once each, not 'extra'"},
      {"{\"weight_map\": {}} x", "nothing but white space"},
      {"{\"metadata\": {\"x\": 01}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": nan}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": +1}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": 1.}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": .5}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": 1e}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": tru}, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": }, \"weight_map\": {}}", "a JSON value"},
      {"{\"metadata\": {\"x\": \"\xff\"}, \"weight_map\": {}}", "valid UTF-8"},
      {"{\"metadata\": {\"x\": " + std::string(40, '[') + "}}", "nesting of at most 16 levels"},
      {"{\"weight_map\": {\"" + std::string(513, 'n') + "\": \"a.safetensors\"}}", "a tensor name of at most 512 bytes"},
      {"{\"weight_map\": {\"a\": \"" + std::string(5000, 'n') + ".safetensors\"}}", "a shard name of at most 4096 bytes"},
      {"{\"weight_map\": {\"a\": \"x.safetensors\"", "',' or '}'"},
  };
  for (const char* name : {"../x.safetensors",
                           "/etc/x.safetensors",
                           "a/b.safetensors",
                           "..",
                           ".",
                           "",
                           ".safetensors",
                           ".x.safetensors",
                           "-x.safetensors",
                           "x.bin",
                           "x.safetensors ",
                           "x .safetensors",
                           "x.safetensors/",
                           "\\\\x.safetensors",
                           "x\\u0000.safetensors",
                           "\\u002e\\u002e/x.safetensors",
                           "pytorch_model.bin",
                           "x.safetensors.index.json",
                           "\xc3\xa9.safetensors",
                           "_x.safetensors",
                           "a//b.safetensors",
                           "x.SAFETENSORS",
                           "~/x.safetensors",
                           "file:x.safetensors"}) {
    cases.push_back({index_of({{"a", name}}), "expected the name of a .safetensors file in this folder, found"});
  }
  TempDir dir;
  write_good(dir);
  for (const Case& c : cases) {
    dir.write(kIndex, c.index);
    const auto error = thrown_by([&] { open_weight_folder(dir.path()); });
    ASSERT_TRUE(error) << c.index.substr(0, 200);
    EXPECT_EQ(error->kind, ErrorKind::data) << error->what();
    EXPECT_THAT(error->what_happened, HasSubstr(c.message));
    EXPECT_THAT(error->where, HasSubstr((dir / kIndex).string()));
  }
  EXPECT_GE(cases.size(), 50u);
}

TEST(WeightFolder, EscapingNameIsFoundBeforeAnyFileIsOpened) {
  TempDir dir;
  dir.write("outside.safetensors", shard({"a"}));
  dir.write("model/model.safetensors.index.json", index_of({{"a", "../outside.safetensors"}}));
  EXPECT_THAT(error_of([&] { open_weight_folder(dir / "model"); }), HasSubstr("weight_map.a"));
}

TEST(WeightFolder, MissingAndDamagedShardsAreNamed) {
  TempDir dir;
  write_good(dir);
  std::filesystem::remove(dir / kTwo);
  const auto missing = thrown_by([&] { open_weight_folder(dir.path()); });
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->kind, ErrorKind::missing);
  EXPECT_THAT(missing->what_happened, HasSubstr(kTwo));
  dir.write(kTwo, shard({"b", "d"}).substr(0, 60));
  const auto damaged = thrown_by([&] { open_weight_folder(dir.path()); });
  ASSERT_TRUE(damaged);
  EXPECT_EQ(damaged->kind, ErrorKind::data);
  EXPECT_THAT(damaged->where, HasSubstr(kTwo));
}

TEST(WeightFolder, SymlinksStayInsideOrInTheHubsBlobs) {
  TempDir dir;
  dir.write("models/blobs/abc", shard({"hub"}));
  std::filesystem::create_directories(dir / "models/snapshots/rev");
  std::filesystem::create_symlink("../../blobs/abc", dir / "models/snapshots/rev/model.safetensors");
  EXPECT_EQ(open_weight_folder(dir / "models/snapshots/rev")->tensors()[0].name, "hub");
  dir.write("secret.safetensors", shard({"secret"}));
  std::filesystem::create_directories(dir / "other");
  std::filesystem::create_symlink("../secret.safetensors", dir / "other/model.safetensors");
  EXPECT_EQ(kind_of([&] { open_weight_folder(dir / "other"); }), ErrorKind::data);
}

TEST(WeightFolder, AFifoNeverBlocks) {
  TempDir dir;
  ASSERT_EQ(::mkfifo((dir / "model.safetensors").c_str(), 0600), 0);
  EXPECT_EQ(kind_of([&] { open_weight_folder(dir.path()); }), ErrorKind::data);
}

TEST(WeightFolder, NothingThereIsMissing) {
  TempDir dir;
  dir.write("training_args.bin", "\x80\x02");
  const auto error = thrown_by([&] { open_weight_folder(dir.path()); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::missing);
  EXPECT_EQ(kind_of([&] { open_weight_folder(dir / "nowhere"); }), ErrorKind::missing);
}

TEST(ForeignWeights, AreRefusedWithTheLineThatConverts) {
  struct Case {
    const char* file;
    std::string content;
    const char* what;
  };
  const Case cases[] = {
      {"model.safetensors", "PK\x03\x04 zip", "pickle is not read"},
      {"model.safetensors", "\x80\x04 pickle and more", "pickle is not read"},
      {"pytorch_model.bin", "anything", "pickle is not read"},
      {"pytorch_model-00001-of-00002.bin", "anything", "pickle is not read"},
      {"model.pt", "anything", "pickle is not read"},
      {"model.ckpt", "", "pickle is not read"},
      {"model.npz", "x", "pickle is not read"},
      {"consolidated.00.pth", "anything", "Meta's own checkpoint layout is not read"},
      {"consolidated.pth", "anything", "Meta's own checkpoint layout is not read"},
      {"model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
       "the file is a pointer, the weights were not downloaded"},
      {"model.safetensors.index.json", "version https://git-lfs.github.com/spec/v1\n",
       "the file is a pointer, the weights were not downloaded"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.file);
    TempDir dir;
    dir.write(c.file, c.content);
    const auto error = thrown_by([&] { open_weight_folder(dir.path()); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::data);
    EXPECT_EQ(error->what_happened, c.what);
    if (error->what_happened == "pickle is not read") {
      ASSERT_EQ(error->details.size(), 1u);
      EXPECT_THAT(error->details[0], HasSubstr("python -c \"import sys,torch,safetensors.torch as s; s.save_file("));
      EXPECT_THAT(error->details[0], HasSubstr("weights_only=True"));
    }
    EXPECT_EQ(kind_of([&] { refuse_foreign(dir / c.file); }), ErrorKind::data);
  }
  TempDir dir;
  EXPECT_NO_THROW(refuse_foreign(dir.write("good.safetensors", shard({"a"}))));
}

}  // namespace
}  // namespace longlora
