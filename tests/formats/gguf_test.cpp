// What a GGUF file becomes: values of every block type, rows of q and k, configuration, tokenizer lists.

#include "longlora/formats/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "formats/gguf_builder.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::HasSubstr;

std::vector<float> values_of(const WeightSource& source, std::string_view name) {
  const TensorInfo& info = *source.find(name);
  std::vector<float> out(info.bytes / 4);
  source.read(info, 0, std::as_writable_bytes(std::span(out)));
  return out;
}

GgufFile opened(const TempDir& dir, const RawGguf& gguf) { return GgufFile(dir.write("x.gguf", gguf.file())); }

TEST(Gguf, ReadsConfigurationUnderHuggingFaceNames) {
  TempDir dir;
  for (const uint32_t version : {2u, 3u}) {
    RawGguf g = tiny_gguf();
    g.version = version;
    const GgufFile file = opened(dir, g);
    const ModelConfig& c = file.config();
    EXPECT_EQ(c.vocab_size, 10);
    EXPECT_EQ(c.hidden_size, 64);
    EXPECT_EQ(c.intermediate_size, 96);
    EXPECT_EQ(c.num_layers, 1);
    EXPECT_EQ(c.num_heads, 4);
    EXPECT_EQ(c.num_kv_heads, 2);
    EXPECT_EQ(c.head_dim, 16);
    EXPECT_EQ(c.max_position, 2048);
    EXPECT_EQ(c.rms_norm_eps, 1e-5) << "the shortest decimal of the fp32 value";
    EXPECT_EQ(c.rope, RopeScaling{.theta = 100000});
    EXPECT_FALSE(c.tied);
    EXPECT_THAT(c.json, HasSubstr("\"rms_norm_eps\": 1e-05"));
    EXPECT_EQ(file.weights()->tensors().size(), 12u);
    EXPECT_EQ(file.tokenizer().model, "");
  }
}

TEST(Gguf, DefaultsAndTiedHead) {
  TempDir dir;
  RawGguf g = tiny_gguf();
  g.remove("llama.rope.freq_base");
  g.tensors.pop_back();
  g.set("llama.attention.key_length", u32_value(16));
  g.set("llama.attention.value_length", u32_value(16));
  g.set("llama.rope.dimension_count", u32_value(16));
  const GgufFile file = opened(dir, g);
  EXPECT_TRUE(file.config().tied);
  EXPECT_EQ(file.config().rope.theta, 10000);
  EXPECT_EQ(file.weights()->find("lm_head.weight"), nullptr);
}

TEST(Gguf, ReadsRopeScaling) {
  TempDir dir;
  RawGguf g = tiny_gguf();
  g.set("llama.rope.scaling.type", string_value("linear"));
  g.set("llama.rope.scaling.factor", f32_value(4));
  EXPECT_EQ(opened(dir, g).config().rope, (RopeScaling{.type = RopeType::linear, .theta = 100000, .factor = 4}));
  g.set("llama.rope.scaling.type", string_value("yarn"));
  g.set("llama.rope.scaling.original_context_length", u32_value(512));
  EXPECT_EQ(opened(dir, g).config().rope,
            (RopeScaling{.type = RopeType::yarn, .theta = 100000, .factor = 4, .original_max_position = 512}));
  g.set("llama.rope.scaling.type", string_value("none"));
  EXPECT_EQ(opened(dir, g).config().rope.type, RopeType::none);
}

/// Divisors as converters write them, from their definition in fp64.
std::string llama3_divisors(double theta, double factor, size_t half) {
  return floats(half, [=](size_t i) {
    const double wavelength = 2 * M_PI * std::pow(theta, 2.0 * static_cast<double>(i) / (2.0 * static_cast<double>(half)));
    if (wavelength < 8192.0 / 4) return 1.0f;
    if (wavelength > 8192.0) return static_cast<float>(factor);
    const double smooth = (8192.0 / wavelength - 1) / 3;
    return static_cast<float>(1 / ((1 - smooth) / factor + smooth));
  });
}

TEST(Gguf, RopeDivisorsBecomeLlama3Scaling) {
  TempDir dir;
  for (const double factor : {2.0, 4.0, 8.0, 16.0, 32.0, 64.0}) {
    RawGguf g = tiny_gguf();
    g.tensors.push_back({"rope_freqs.weight", {8}, 0, llama3_divisors(100000, factor, 8)});
    g.place();
    const GgufFile file = opened(dir, g);
    EXPECT_EQ(file.config().rope,
              (RopeScaling{.type = RopeType::llama3, .theta = 100000, .factor = factor, .original_max_position = 8192}));
    EXPECT_EQ(file.weights()->tensors().size(), 12u) << "the divisors are no weight";
    EXPECT_THAT(file.config().json, HasSubstr("\"rope_type\": \"llama3\""));
  }
  RawGguf g = tiny_gguf();
  g.tensors.push_back({"rope_freqs.weight", {8}, 0, llama3_divisors(100000, 3, 8)});
  g.place();
  EXPECT_THAT(error_of([&] { opened(dir, g); }), HasSubstr("expected the divisors of llama3 scaling"));
  g.tensors.back() = {"rope_freqs.weight", {4}, 0, llama3_divisors(100000, 8, 4)};
  g.place();
  EXPECT_THAT(error_of([&] { opened(dir, g); }), HasSubstr("expected shape [8], found [4]"));
}

TEST(Gguf, UnpermutesRowsOfQueriesAndKeysOnly) {
  TempDir dir;
  const GgufFile file = opened(dir, tiny_gguf());
  const auto source = file.weights();
  const auto check = [&](const char* name, size_t rows, bool is_moved) {
    const auto values = values_of(*source, name);
    ASSERT_EQ(values.size(), rows * 64);
    std::set<float> seen;
    for (size_t head = 0; head * 16 < rows; ++head) {
      for (size_t half = 0; half < 2; ++half) {
        for (size_t i = 0; i < 8; ++i) {
          const size_t row = head * 16 + half * 8 + i, stored = is_moved ? head * 16 + 2 * i + half : row;
          EXPECT_EQ(values[row * 64], static_cast<float>(stored)) << name << " row " << row;
          EXPECT_EQ(values[row * 64 + 63], static_cast<float>(stored));
          seen.insert(values[row * 64]);
        }
      }
    }
    EXPECT_EQ(seen.size(), rows);
  };
  check("model.layers.0.self_attn.q_proj.weight", 64, true);
  check("model.layers.0.self_attn.k_proj.weight", 32, true);
  check("model.layers.0.self_attn.v_proj.weight", 32, false);
  check("model.layers.0.self_attn.o_proj.weight", 64, false);
}

TEST(Gguf, RangesOfRowsEqualTheWhole) {
  TempDir dir;
  const GgufFile file = opened(dir, tiny_gguf());
  const auto source = file.weights();
  const TensorInfo& q = *source->find("model.layers.0.self_attn.q_proj.weight");
  const auto whole = values_of(*source, q.name);
  for (const size_t first : {0u, 1u, 15u, 16u, 40u}) {
    std::vector<float> part(64 * 7);
    source->read(q, first * 64 * 4, std::as_writable_bytes(std::span(part)));
    EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + static_cast<std::ptrdiff_t>(first * 64))) << first;
  }
  std::vector<std::byte> unaligned(64 * 4 + 1);
  source->read(q, 64 * 4, std::span(unaligned).subspan(1));
  EXPECT_EQ(std::memcmp(unaligned.data() + 1, whole.data() + 64, 64 * 4), 0);
  std::vector<std::byte> half(64 * 2);
  EXPECT_EQ(kind_of([&] { source->read(q, 0, half); }), ErrorKind::internal) << "not a whole row";
}

/// fp16 bits of a few exact values.
std::string half_bits(double value) {
  int exponent;
  const double mantissa = std::frexp(std::abs(value), &exponent);  // value = mantissa * 2^exponent, mantissa in [0.5, 1)
  const unsigned sign = value < 0 ? 0x8000u : 0;
  if (value == 0) return little_endian(sign, 2);
  return little_endian(sign | static_cast<unsigned>((exponent + 14) << 10) | (static_cast<unsigned>(mantissa * 2048) & 0x3ffu), 2);
}

TEST(Gguf, DequantisesEveryTypeByItsDefinition) {
  TempDir dir;
  // ffn_gate: 96 rows of 64 elements = 2 blocks a row; scales differ per block, quants count
  struct Case {
    const char* name;
    uint32_t type;
    size_t block;
    std::function<std::string(size_t)> bytes;
    std::function<double(size_t, size_t)> value;
  };
  const auto d = [](size_t b) { return (b % 2 ? -1 : 1) * (0.25 + 0.125 * static_cast<double>(b % 5)); };
  const auto m = [](size_t b) { return 3.0 - static_cast<double>(b % 7); };
  const auto q4 = [](size_t b, size_t i) { return static_cast<int>((b * 3 + i * 5) % 16); };
  const auto q8 = [](size_t b, size_t i) { return static_cast<int>((b * 37 + i * 11) % 256) - 128; };
  const auto nibbles = [&](size_t b) {
    std::string out;
    for (size_t j = 0; j < 16; ++j) out += static_cast<char>(q4(b, j) | q4(b, j + 16) << 4);
    return out;
  };
  const Case cases[] = {
      {"F16", 1, 1, [&](size_t i) { return half_bits(static_cast<double>(i % 100) - 50); },
       [](size_t i, size_t) { return static_cast<double>(i % 100) - 50; }},
      {"BF16", 30, 1, [&](size_t i) { return float_bytes(static_cast<float>(i % 128) - 64).substr(2); },
       [](size_t i, size_t) { return static_cast<double>(i % 128) - 64; }},
      {"Q4_0", 2, 32, [&](size_t b) { return half_bits(d(b)) + nibbles(b); }, [&](size_t b, size_t i) { return d(b) * (q4(b, i) - 8); }},
      {"Q4_1", 3, 32, [&](size_t b) { return half_bits(d(b)) + half_bits(m(b)) + nibbles(b); },
       [&](size_t b, size_t i) { return d(b) * q4(b, i) + m(b); }},
      {"Q8_0", 8, 32,
       [&](size_t b) {
         std::string out = half_bits(d(b));
         for (size_t i = 0; i < 32; ++i) out += static_cast<char>(q8(b, i));
         return out;
       },
       [&](size_t b, size_t i) { return d(b) * q8(b, i); }},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    RawGguf g = tiny_gguf();
    RawGgufTensor& t = g.tensor("blk.0.ffn_gate.weight");
    t.type = c.type;
    t.data.clear();
    for (size_t b = 0; b < 96 * 64 / c.block; ++b) t.data += c.bytes(b);
    g.place();
    const GgufFile file = opened(dir, g);
    const auto values = values_of(*file.weights(), "model.layers.0.mlp.gate_proj.weight");
    ASSERT_EQ(values.size(), 96u * 64);
    for (size_t e = 0; e < values.size(); ++e) ASSERT_EQ(values[e], static_cast<float>(c.value(e / c.block, e % c.block))) << e;
  }
}

TEST(Gguf, QuantisedRowsMoveAsWholes) {
  TempDir dir;
  RawGguf g = tiny_gguf();
  RawGgufTensor& k = g.tensor("blk.0.attn_k.weight");
  k.type = 8;
  k.data.clear();
  for (int row = 0; row < 32; ++row) {
    for (int b = 0; b < 2; ++b) k.data += half_bits(1) + std::string(32, static_cast<char>(row));
  }
  g.place();
  const GgufFile file = opened(dir, g);
  const auto values = values_of(*file.weights(), "model.layers.0.self_attn.k_proj.weight");
  EXPECT_EQ(values[1 * 64], 2.0f);  // HF row 1 of head 0 is stored row 2
  EXPECT_EQ(values[8 * 64], 1.0f);  // second half begins with the odd rows
  EXPECT_EQ(values[(16 + 9) * 64], 19.0f);
}

TEST(Gguf, ScalesThatAreNotFiniteAreNamed) {
  TempDir dir;
  RawGguf g = tiny_gguf();
  RawGgufTensor& t = g.tensor("blk.0.ffn_up.weight");
  t.type = 3;
  t.data.clear();
  for (size_t b = 0; b < 192; ++b) t.data += half_bits(1) + (b == 77 ? little_endian(0x7c00, 2) : half_bits(2)) + std::string(16, 'q');
  g.place();
  const GgufFile file = opened(dir, g);
  const auto error = thrown_by([&] { values_of(*file.weights(), "model.layers.0.mlp.up_proj.weight"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->kind, ErrorKind::data);
  EXPECT_EQ(error->what_happened, "expected a finite scale, block 77 has NaN or infinity");
  EXPECT_THAT(error->where, HasSubstr("tensor blk.0.ffn_up.weight"));
}

TEST(Gguf, ReadsTheTokenizerAsLists) {
  TempDir dir;
  RawGguf g = tiny_gguf();
  std::vector<std::string> tokens;
  for (int i = 0; i < 10; ++i) tokens.push_back("t" + std::to_string(i));
  std::string types;
  for (int i = 0; i < 10; ++i) types += little_endian(i < 3 ? 3 : 1, 4);
  g.set("tokenizer.ggml.model", string_value("gpt2"));
  g.set("tokenizer.ggml.pre", string_value("smollm"));
  g.set("tokenizer.ggml.tokens", strings_value(tokens));
  g.set("tokenizer.ggml.merges", strings_value({"a b", "ab c"}));
  g.set("tokenizer.ggml.token_type", array_value(5, 10, types));
  g.set("tokenizer.ggml.scores", array_value(6, 10, floats(10, [](size_t i) { return -static_cast<float>(i); })));
  g.set("tokenizer.ggml.bos_token_id", u32_value(1));
  g.set("tokenizer.ggml.eos_token_id", u32_value(2));
  g.set("tokenizer.ggml.add_bos_token", bool_value(false));
  g.set("tokenizer.chat_template", string_value("{{ x }}"));
  const GgufFile file = opened(dir, g);
  const TokenizerParts& t = file.tokenizer();
  EXPECT_EQ(t.model, "gpt2");
  EXPECT_EQ(t.pre, "smollm");
  EXPECT_EQ(t.tokens, tokens);
  EXPECT_EQ(t.merges, (std::vector<std::string>{"a b", "ab c"}));
  EXPECT_EQ(t.types, (std::vector<int32_t>{3, 3, 3, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(t.scores[9], -9.0f);
  EXPECT_EQ(t.bos, 1);
  EXPECT_EQ(t.eos, 2);
  EXPECT_FALSE(t.unknown);
  EXPECT_EQ(t.add_bos, false);
  EXPECT_FALSE(t.add_eos);
  EXPECT_EQ(t.chat_template, "{{ x }}");
  EXPECT_EQ(file.config().bos_token, 1);
  EXPECT_EQ(file.config().eos_tokens, std::vector<int64_t>{2});
}

TEST(Gguf, OtherAlignmentsAreRead) {
  TempDir dir;
  for (const uint64_t alignment : {8u, 64u, 4096u}) {
    RawGguf g = tiny_gguf();
    g.alignment = alignment;
    g.set("general.alignment", u32_value(static_cast<uint32_t>(alignment)));
    g.place();
    EXPECT_EQ(values_of(*opened(dir, g).weights(), "lm_head.weight").back(), 9.0f) << alignment;
  }
}

}  // namespace
}  // namespace longlora
