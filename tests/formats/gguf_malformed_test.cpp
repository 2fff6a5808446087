// Every limit and rule of the GGUF reader violated: kind, place and part of the message of each.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "formats/gguf_builder.h"
#include "longlora/formats/gguf.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::HasSubstr;

struct Malformed {
  std::string name, file, message;
  std::string file_name = "x.gguf";
};

Malformed edited(std::string name, const std::function<void(RawGguf&)>& edit, std::string message) {
  RawGguf g = tiny_gguf();
  edit(g);
  return {std::move(name), g.file(), std::move(message)};
}

void add_header_cases(std::vector<Malformed>& out) {
  const RawGguf good = tiny_gguf();
  const auto start = [&](const std::string& magic, uint32_t version, uint64_t tensors, uint64_t keys) {
    return magic + little_endian(version, 4) + little_endian(tensors, 8) + little_endian(keys, 8) + std::string(64, '\0');
  };
  out.push_back({"empty", "", "expected the magic GGUF"});
  out.push_back({"short", "GGUF", "expected the magic GGUF"});
  out.push_back({"other magic", start("GGUX", 3, 0, 0), "expected the magic GGUF"});
  out.push_back({"reversed magic", start("FUGG", 3, 0, 0), "expected the magic GGUF"});
  out.push_back({"version 1", start("GGUF", 1, 0, 0), "expected GGUF version 2 or 3, found 1"});
  out.push_back({"version 4", start("GGUF", 4, 0, 0), "expected GGUF version 2 or 3, found 4"});
  out.push_back({"big-endian", start("GGUF", 0x03000000, 0, 0), "big-endian"});
  out.push_back({"too many tensors", start("GGUF", 3, 65'537, 0), "at most 65536 tensors, found 65537"});
  out.push_back({"tensor count 2^64-1", start("GGUF", 3, UINT64_MAX, 0), "at most 65536 tensors"});
  out.push_back({"too many keys", start("GGUF", 3, 0, 65'537), "at most 65536 keys, found 65537"});
  out.push_back({"key count 2^63", start("GGUF", 3, 0, uint64_t{1} << 63), "at most 65536 keys"});
  const std::string whole = good.file();
  for (size_t size = 24; size < good.header().size(); size += 29)
    out.push_back({"truncated at " + std::to_string(size), whole.substr(0, size), ""});
  out.push_back({"data cut", whole.substr(0, whole.size() - 1), "expected data inside"});
  out.push_back({"no data", good.header(), "expected"});
  out.push_back({"part of a split", whole, "split into several GGUF files", "m-00001-of-00003.gguf"});
}

void add_value_cases(std::vector<Malformed>& out) {
  const auto value = [&](std::string name, std::string bytes, std::string message, const std::string& key = "some.key") {
    out.push_back(edited(
        std::move(name),
        [&](RawGguf& g) {
          g.values.insert(g.values.begin(), {key, std::move(bytes)});
        },
        std::move(message)));
  };
  value("type 13", little_endian(13, 4), "expected a value type of 0 to 12 for key some.key, found 13");
  value("type 2^32-1", little_endian(UINT32_MAX, 4), "expected a value type of 0 to 12");
  value("bool 2", little_endian(7, 4) + "\x02", "expected a truth value of 0 or 1, found 2");
  value("string too long", little_endian(8, 4) + little_endian((1 << 20) + 1, 8), "of at most 1048576 bytes");
  value("string of 2^64-1", little_endian(8, 4) + little_endian(UINT64_MAX, 8), "of at most 1048576 bytes");
  value("string beyond the file", little_endian(8, 4) + little_endian(1 << 20, 8), "inside the file");
  value("key too long", u32_value(1), "a key of at most 256 bytes, found 257", std::string(257, 'k'));
  value("array of arrays", array_value(9, 0, ""), "expected no array of arrays");
  value("array type 13", array_value(13, 0, ""), "expected a value type of 0 to 12");
  value("too many numbers", array_value(4, (1 << 24) + 1, ""), "at most 16777216 elements");
  value("numbers 2^63", array_value(4, uint64_t{1} << 63, ""), "at most 16777216 elements");
  value("too many strings", array_value(8, (1 << 20) + 1, ""), "at most 1048576 elements");
  value("too many merges", array_value(8, (1 << 21) + 1, ""), "at most 2097152 elements", "tokenizer.ggml.merges");
  value("numbers beyond the file", array_value(4, 1 << 20, "xxxx"), "inside the file");
  value("doubles beyond the file", array_value(12, 1 << 20, "xxxx"), "inside the file");
  value("strings beyond the file", array_value(8, 1 << 20, "xxxx"), "inside the file");
  value("token too long", strings_value({std::string(1025, 't')}), "of at most 1024 bytes, found 1025");
  value("string in an array beyond the file", array_value(8, 1, little_endian(1000, 8)).append(""), "");
  value("key twice", string_value("llama"), "expected every key once, found general.architecture twice", "general.architecture");
  value("split.count 2", u32_value(2), "split into several GGUF files", "split.count");
  for (const uint32_t alignment : {0u, 1u, 4u, 24u, 33u, 8192u, UINT32_MAX}) {
    value("alignment " + std::to_string(alignment), u32_value(alignment), "expected general.alignment to be a power of two",
          "general.alignment");
  }
  value("alignment as text", string_value("32"), "expected general.alignment to be a power of two", "general.alignment");
}

void add_tensor_cases(std::vector<Malformed>& out) {
  const size_t tensors = tiny_gguf().tensors.size();
  for (size_t i = 0; i < tensors; ++i) {
    const std::string name = tiny_gguf().tensors[i].name, at = " at tensor " + std::to_string(i);
    const auto tensor = [&](const char* what, const std::function<void(RawGgufTensor&)>& edit, std::string message) {
      out.push_back(edited(
          what + at, [&](RawGguf& g) { edit(g.tensors[i]); }, std::move(message)));
    };
    tensor(
        "no dimension", [](RawGgufTensor& t) { t.dimensions.clear(); }, "expected 1 to 4 dimensions in tensor " + name + ", found 0");
    tensor(
        "five dimensions", [](RawGgufTensor& t) { t.dimensions.assign(5, 1); }, "expected 1 to 4 dimensions");
    tensor(
        "dimension 0", [](RawGgufTensor& t) { t.dimensions[0] = 0; }, "expected dimensions of at least 1");
    tensor(
        "dimension 2^63", [](RawGgufTensor& t) { t.dimensions[0] = uint64_t{1} << 63; }, "expected dimensions of at least 1");
    tensor(
        "product overflows",
        [](RawGgufTensor& t) {
          t.dimensions = {uint64_t{1} << 40, uint64_t{1} << 40};
        },
        "overflows 64 bits");
    tensor(
        "unsupported type", [](RawGgufTensor& t) { t.type = 12; },
        "expected a type of F32 F16 BF16 Q4_0 Q4_1 Q8_0, found Q4_K (12), which is not in this version");
    tensor(
        "unknown type", [](RawGgufTensor& t) { t.type = 999; }, "found 999, which is not in this version");
    tensor(
        "row not of whole blocks",
        [](RawGgufTensor& t) {
          t.type = 8;
          t.dimensions[0] = 33;
        },
        "expected rows of a multiple of 32 elements for Q8_0, found 33");
    tensor(
        "offset not aligned", [](RawGgufTensor& t) { t.offset += 4; }, "expected an offset that is a multiple of 32");
    tensor(
        "offset beyond the file", [](RawGgufTensor& t) { t.offset += 1 << 30; }, "expected data inside");
    tensor(
        "offset 2^64-32", [](RawGgufTensor& t) { t.offset = UINT64_MAX - 31; }, "expected data inside");
    tensor(
        "name too long", [](RawGgufTensor& t) { t.name = std::string(129, 'n'); }, "a tensor name of at most 128 bytes, found 129");
    tensor(
        "unknown name", [](RawGgufTensor& t) { t.name = "blk.0.other.weight"; }, i == 0 ? "expected a matrix token_embd.weight" : "");
    tensor(
        "layer out of range", [](RawGgufTensor& t) { t.name = "blk.1.ffn_up.weight"; }, "");
    tensor(
        "layer with leading zero", [](RawGgufTensor& t) { t.name = "blk.00.ffn_up.weight"; }, "");
    out.push_back(edited(
        "name twice" + at, [&](RawGguf& g) { g.tensors[(i + 1) % tensors].name = g.tensors[i].name; },
        "expected every name once, found it twice"));
    out.push_back(edited(
        "overlap" + at, [&](RawGguf& g) { g.tensors[i].offset = g.tensors[(i + 1) % tensors].offset; }, ""));
    if (name != "output.weight")
      out.push_back(edited(
          "removed" + at, [&](RawGguf& g) { g.tensors.erase(g.tensors.begin() + static_cast<std::ptrdiff_t>(i)); }, ""));
  }
}

void add_model_cases(std::vector<Malformed>& out) {
  const auto set = [&](const std::string& key, const std::string& value, std::string message) {
    out.push_back(edited(
        key, [&](RawGguf& g) { g.set(key, value); }, std::move(message)));
  };
  const auto removed = [&](const std::string& key, std::string message) {
    out.push_back(edited(
        "without " + key, [&](RawGguf& g) { g.remove(key); }, std::move(message)));
  };
  set("general.architecture", string_value("qwen2"), "expected llama, found 'qwen2'");
  set("general.architecture", u32_value(1), "expected a string, found another value");
  removed("general.architecture", "expected llama, found ''");
  for (const char* key :
       {"llama.embedding_length", "llama.feed_forward_length", "llama.block_count", "llama.attention.head_count", "llama.context_length"}) {
    removed(key, "expected an integer, found no such key");
    set(key, string_value("64"), "expected a non-negative integer");
    set(key, f32_value(64), "expected a non-negative integer");
    set(key, little_endian(5, 4) + little_endian(UINT32_MAX, 4), "expected a non-negative integer");  // i32 of -1
    set(key, u32_value(0), "");
    set(key, u32_value(UINT32_MAX), "");
  }
  set("llama.attention.head_count_kv", u32_value(3), "num_key_value_heads: expected a divisor of num_attention_heads (4), found 3");
  set("llama.attention.head_count", u32_value(5), "expected a divisor of embedding_length 64, found 5");
  set("llama.attention.value_length", u32_value(32), "expected the head size 16, found 32");
  set("llama.rope.dimension_count", u32_value(8), "expected the head size 16, found 8");
  set("llama.attention.layer_norm_rms_epsilon", f32_value(1), "rms_norm_eps: expected a number in (0, 0.1], found 1");
  set("llama.attention.layer_norm_rms_epsilon", f32_value(NAN), "expected a finite number");
  removed("llama.attention.layer_norm_rms_epsilon", "expected a number, found no such key");
  set("llama.rope.freq_base", f32_value(INFINITY), "expected a finite number");
  set("llama.rope.scaling.type", string_value("longrope"), "expected none, linear or yarn, found longrope");
  set("llama.rope.scaling.yarn_beta_fast", f32_value(1), "expected only type, factor, original_context_length and finetuned");
  set("llama.expert_count", u32_value(8), "mixture of experts is not in this version");
  set("tokenizer.ggml.tokens", strings_value({"a", "b"}), "expected 10 tokens, one an embedding row, found 2");
  set("tokenizer.ggml.tokens", u32_value(1), "expected an array of strings");
  set("tokenizer.ggml.scores", array_value(6, 1, "xxxx"), "expected 0 elements, one a token, found 1");
  set("tokenizer.ggml.token_type", strings_value({"a"}), "expected an array of numbers");
  set("tokenizer.ggml.token_type", array_value(6, 1, float_bytes(0.5f)), "expected 32-bit integers");
  set("tokenizer.ggml.add_bos_token", u32_value(1), "expected a truth value");
}

TEST(GgufMalformed, TheUnbrokenFileIsGood) {
  TempDir dir;
  EXPECT_NO_THROW(GgufFile(dir.write("x.gguf", tiny_gguf().file())));
}

TEST(GgufMalformed, EveryRuleIsRefusedWithItsSentence) {
  std::vector<Malformed> cases;
  add_header_cases(cases);
  add_value_cases(cases);
  add_tensor_cases(cases);
  add_model_cases(cases);
  TempDir dir;
  for (const Malformed& c : cases) {
    SCOPED_TRACE(c.name);
    const auto path = dir.write(c.file_name, c.file);
    const auto error = thrown_by([&] { GgufFile file(path); });
    ASSERT_TRUE(error) << "accepted";
    EXPECT_EQ(error->kind, ErrorKind::data) << error->what();
    EXPECT_THAT(error->what_happened, HasSubstr(c.message)) << error->what();
    EXPECT_EQ(error->where.find(path.string()), 0u) << error->where;
  }
  EXPECT_GE(cases.size(), 300u);
}

TEST(GgufMalformed, MissingFileIsMissing) {
  TempDir dir;
  EXPECT_EQ(kind_of([&] { GgufFile(dir / "x.gguf"); }), ErrorKind::missing);
}

}  // namespace
}  // namespace longlora
