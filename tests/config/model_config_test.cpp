// config.json: what is accepted, what is refused with which words, what is written.

#include "longlora/config/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "longlora/core/json.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

using testing::Contains;
using testing::HasSubstr;

constexpr std::string_view kTiny = R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 100,
  "hidden_size": 64,
  "intermediate_size": 128,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 512,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000,
  "hidden_act": "silu",
  "bos_token_id": 1,
  "eos_token_id": 2
})";

/// kTiny with the value of `key` replaced, or the member added.
std::string with(std::string_view key, std::string_view value) {
  std::string text(kTiny);
  const std::string quoted = "\"" + std::string(key) + "\": ";
  const size_t at = text.find(quoted);
  if (at == std::string::npos) return text.insert(2, "  " + quoted + std::string(value) + ",\n");
  const size_t begin = at + quoted.size(), end = text.find_first_of(text[begin] == '[' ? "]" : ",\n", begin) + (text[begin] == '[');
  return text.replace(begin, end - begin, value);
}

ModelConfig parse(std::string_view json) { return parse_model_config(json, "config.json"); }
std::string refusal(std::string_view json) {
  const auto error = thrown_by([&] { parse(json); });
  return error && error->kind == ErrorKind::data ? error->what_happened
         : error                                 ? "another kind: " + std::string(error->what())
                                                 : "accepted";
}

TEST(ModelConfig, ReadsTheUsualKeys) {
  const ModelConfig c = parse(kTiny);
  EXPECT_EQ(c.vocab_size, 100);
  EXPECT_EQ(c.hidden_size, 64);
  EXPECT_EQ(c.intermediate_size, 128);
  EXPECT_EQ(c.num_layers, 2);
  EXPECT_EQ(c.num_heads, 4);
  EXPECT_EQ(c.num_kv_heads, 2);
  EXPECT_EQ(c.head_dim, 16);
  EXPECT_EQ(c.max_position, 512);
  EXPECT_EQ(c.rms_norm_eps, 1e-5);
  EXPECT_FALSE(c.tied);
  EXPECT_EQ(c.rope, RopeScaling{});
  EXPECT_EQ(c.bos_token, 1);
  EXPECT_EQ(c.eos_tokens, std::vector<int64_t>{2});
  EXPECT_FALSE(c.pad_token);
  EXPECT_FALSE(c.declared_context);
  EXPECT_EQ(c.json, kTiny);
}

TEST(ModelConfig, FillsTheDefaultsOfHuggingFace) {
  const ModelConfig c =
      parse(R"({"model_type": "llama", "vocab_size": 10, "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1,
                                  "num_attention_heads": 4})");
  EXPECT_EQ(c.num_kv_heads, 4);
  EXPECT_EQ(c.max_position, 2048);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_TRUE(c.eos_tokens.empty());
}

TEST(ModelConfig, AcceptsVariants) {
  EXPECT_EQ(parse(with("head_dim", "80")).head_dim, 80) << "an explicit head size may differ from hidden / heads";
  EXPECT_EQ(parse(with("eos_token_id", "[2, 7]")).eos_tokens, (std::vector<int64_t>{2, 7}));
  EXPECT_TRUE(parse(with("tie_word_embeddings", "true")).tied);
  EXPECT_EQ(parse(with("longlora_train", R"({"context": 4096})")).declared_context, 4096);
  EXPECT_EQ(parse(with("sliding_window", "null")).model_type, "llama");
  EXPECT_EQ(parse(with("model_type", "\"mistral\"")).model_type, "mistral");
  EXPECT_EQ(parse(with("rope_theta", "1e6")).rope.theta, 1e6);
  EXPECT_EQ(parse(with("pad_token_id", "3")).pad_token, 3);
  EXPECT_EQ(parse(with("some_new_key", "{\"a\": [1]}")).vocab_size, 100);
}

TEST(ModelConfig, PadOutsideTheVocabularyIsNullWithANotice) {
  for (const char* id : {"-1", "100", "32000"}) {
    const ModelConfig c = parse(with("pad_token_id", id));
    EXPECT_FALSE(c.pad_token);
    EXPECT_THAT(c.notices, Contains(std::string("pad_token_id ") + id + " is outside the vocabulary of 100 and is treated as null"));
  }
  EXPECT_THAT(parse(with("attention_dropout", "0.1")).notices, Contains("attention_dropout 0.1 has no effect here"));
}

TEST(ModelConfig, RefusesWithKeyExpectedAndFound) {
  struct Case {
    const char* key;
    const char* value;
    const char* message;
  };
  const Case cases[] = {
      {"model_type", "\"qwen2\"", "model_type: expected \"llama\" or \"mistral\", found \"qwen2\""},
      {"architectures", "[\"GPT2LMHeadModel\"]",
       "architectures: expected [\"LlamaForCausalLM\"] or [\"MistralForCausalLM\"], found \"GPT2LMHeadModel\""},
      {"vocab_size", "0", "vocab_size: expected an integer in [1, 1048576], found 0"},
      {"vocab_size", "1048577", "vocab_size: expected an integer in [1, 1048576], found 1048577"},
      {"vocab_size", "100.0", "vocab_size: expected an integer in [1, 1048576], found 100.0"},
      {"vocab_size", "null", "vocab_size: expected an integer in [1, 1048576], found no such key"},
      {"hidden_size", "7", "hidden_size: expected an integer in [8, 65536], found 7"},
      {"hidden_size", "-64", "hidden_size: expected an integer in [8, 65536], found -64"},
      {"hidden_size", "\"64\"", "hidden_size: expected an integer in [8, 65536], found \"64\""},
      {"hidden_size", "66", "num_attention_heads: expected a divisor of hidden_size (66), or head_dim, found 4"},
      {"hidden_size", "4096", "head_dim: expected hidden_size / num_attention_heads of at most 256, found 1024"},
      {"intermediate_size", "262145", "intermediate_size: expected an integer in [8, 262144], found 262145"},
      {"num_hidden_layers", "513", "num_hidden_layers: expected an integer in [1, 512], found 513"},
      {"num_key_value_heads", "3", "num_key_value_heads: expected a divisor of num_attention_heads (4), found 3"},
      {"head_dim", "15", "head_dim: expected an even number, found 15"},
      {"head_dim", "258", "head_dim: expected an integer in [2, 256], found 258"},
      {"max_position_embeddings", "16777217", "max_position_embeddings: expected an integer in [1, 16777216], found 16777217"},
      {"rms_norm_eps", "0", "rms_norm_eps: expected a number in (0, 0.1], found 0"},
      {"rms_norm_eps", "0.2", "rms_norm_eps: expected a number in (0, 0.1], found 0.2"},
      {"rope_theta", "0.5", "rope_theta: expected a number in [1, 1000000000], found 0.5"},
      {"hidden_act", "\"gelu\"", "hidden_act: expected \"silu\", found \"gelu\""},
      {"tie_word_embeddings", "1", "tie_word_embeddings: expected true or false, found 1"},
      {"attention_bias", "true", "attention_bias: expected false, found true (not supported yet)"},
      {"mlp_bias", "true", "mlp_bias: expected false, found true (not supported yet)"},
      {"sliding_window", "4096", "sliding_window: expected null (set it to null if the model was trained without a window), found 4096"},
      {"quantization_config", "{\"bits\": 4}",
       "quantization_config: expected no such key (load unquantised weights or GGUF), found an object"},
      {"bos_token_id", "100", "bos_token_id: expected a token id below vocab_size (100) or null, found 100"},
      {"eos_token_id", "[2, \"x\"]", "eos_token_id: expected a token id below vocab_size (100) or null, found \"x\""},
      {"longlora_train", "{\"context\": 0}", "longlora_train.context: expected an integer in [1, 16777216], found 0"},
      {"partial_rotary_factor", "0.5", "partial_rotary_factor: expected 1, found 0.5"},
      {"rope_scaling", "\"linear\"", "rope_scaling: expected an object or null, found \"linear\""},
      {"rope_scaling", "{\"factor\": 2.0}", "rope_scaling.rope_type: expected default, linear, dynamic, yarn or llama3, found no such key"},
      {"rope_scaling", "{\"type\": \"longrope\"}",
       "rope_scaling.rope_type: expected default, linear, dynamic, yarn or llama3, found \"longrope\" (not supported)"},
      {"rope_scaling", "{\"rope_type\": \"proportional\"}",
       "rope_scaling.rope_type: expected default, linear, dynamic, yarn or llama3, found \"proportional\" (not supported)"},
      {"rope_scaling", "{\"type\": \"linear\"}", "rope_scaling.factor: expected a number in [1, 1000000], found no such key"},
      {"rope_scaling", "{\"type\": \"linear\", \"factor\": 0.5}", "rope_scaling.factor: expected a number in [1, 1000000], found 0.5"},
      {"rope_scaling", "{\"type\": \"linear\", \"rope_type\": \"dynamic\", \"factor\": 2}",
       "rope_scaling.rope_type: expected the same as type (\"linear\"), found \"dynamic\""},
      {"rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 1}",
       "rope_scaling.high_freq_factor: expected more than low_freq_factor (4), found 1"},
      {"rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 5000.0}",
       "rope_parameters.rope_theta: expected the top-level rope_theta (10000), found 5000"},
      {"rope_parameters", "{\"full_attention\": {\"rope_type\": \"default\"}}",
       "rope_parameters.full_attention: expected one setting for all layers, found an object (per-layer settings are not supported)"},
      {"rope_parameters", "{\"rope_type\": \"default\", \"partial_rotary_factor\": 0.25}",
       "rope_parameters.partial_rotary_factor: expected 1, found 0.25"},
  };
  for (const Case& c : cases) EXPECT_EQ(refusal(with(c.key, c.value)), c.message) << c.key << " = " << c.value;
}

TEST(ModelConfig, ParametersWinOverScalingAndMustAgree) {
  const std::string both = with("rope_scaling", R"({"type": "linear", "factor": 2.0})");
  const auto add = [&](std::string_view parameters) {
    return std::string(both).insert(2, "\"rope_parameters\": " + std::string(parameters) + ",");
  };
  EXPECT_EQ(parse(add(R"({"rope_type": "linear", "factor": 2})")).rope.factor, 2);
  EXPECT_EQ(refusal(add(R"({"rope_type": "linear", "factor": 4})")),
            "rope_parameters: expected the same as rope_scaling, found another setting");
}

TEST(ModelConfig, TopLevelOriginalLengthWins) {
  const std::string nested = with("rope_scaling", R"({"rope_type": "yarn", "factor": 2, "original_max_position_embeddings": 128})");
  EXPECT_EQ(parse(nested).rope.original_max_position, 128);
  EXPECT_EQ(parse(std::string(nested).insert(2, "\"original_max_position_embeddings\": 256,")).rope.original_max_position, 256);
  EXPECT_EQ(parse(with("rope_scaling", R"({"rope_type": "yarn", "factor": 2})")).rope.original_max_position, 512) << "absent: M";
}

TEST(ModelConfig, AllProblemsComeTogether) {
  const auto error =
      thrown_by([] { parse(R"({"model_type": "bert", "hidden_size": 1, "num_attention_heads": 4, "attention_bias": true})"); });
  ASSERT_TRUE(error);
  EXPECT_THAT(error->what_happened, HasSubstr("problems, the first: model_type: expected"));
  EXPECT_EQ(error->where, "config.json");
  EXPECT_THAT(error->details, Contains("config.json: vocab_size: expected an integer in [1, 1048576], found no such key"));
  EXPECT_THAT(error->details, Contains("config.json: attention_bias: expected false, found true (not supported yet)"));
  EXPECT_LE(error->details.size(), 20u);
}

TEST(ModelConfig, RefusesBadText) {
  EXPECT_EQ(kind_of([] { parse("[]"); }), ErrorKind::data);
  EXPECT_EQ(kind_of([] { parse("{\"a\": 1, \"a\": 2}"); }), ErrorKind::data);
  EXPECT_EQ(kind_of([] { parse("{\"a\": \"\xff\"}"); }), ErrorKind::data);
  EXPECT_EQ(kind_of([] { parse(std::string(2 << 20, ' ')); }), ErrorKind::data);
  EXPECT_EQ(kind_of([] { parse(""); }), ErrorKind::data);
}

TEST(ModelConfig, ReadsTheFileOfAFolder) {
  TempDir dir;
  EXPECT_EQ(kind_of([&] { read_model_config(dir.path()); }), ErrorKind::missing);
  dir.write("config.json", kTiny);
  EXPECT_EQ(read_model_config(dir.path()).vocab_size, 100);
  dir.write("config.json", with("vocab_size", "0"));
  EXPECT_THAT(error_of([&] { read_model_config(dir.path()); }), HasSubstr((dir.path() / "config.json").string()));
}

// --- writing ----------------------------------------------------------------------------------------------------------------------

TrainConfig::Rope linear() { return {.scaling = RopeMethod::linear, .factor = {}, .theta = {}}; }

TEST(WriteModelConfig, ChangesOnlyTheStatedKeysInPlace) {
  const ModelConfig base = parse(kTiny);
  const std::string out = write_model_config(base, extend_rope(base, linear(), 4096), "bfloat16", false, "0.1.0");
  EXPECT_EQ(out, R"({
  "architectures": ["LlamaForCausalLM"],
  "model_type": "llama",
  "vocab_size": 100,
  "hidden_size": 64,
  "intermediate_size": 128,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 4096,
  "rms_norm_eps": 1e-05,
  "rope_theta": 10000.0,
  "hidden_act": "silu",
  "bos_token_id": 1,
  "eos_token_id": 2,
  "rope_scaling": {
    "type": "linear",
    "rope_type": "linear",
    "factor": 8.0
  },
  "torch_dtype": "bfloat16",
  "tie_word_embeddings": false,
  "use_cache": true,
  "longlora_train": {
    "context": 4096,
    "base_context": 512,
    "version": "0.1.0"
  }
})");
}

TEST(WriteModelConfig, KeepsRopeKeysByteEqualWhenNothingIsExtended) {
  const std::string odd =
      R"({"model_type":"llama","vocab_size":10,"hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":4,
   "max_position_embeddings" :  512, "rope_parameters" : {"rope_theta" : 1e4,"rope_type":"linear", "factor":2}, "x":"}\",{", "use_cache":false , "torch_dtype":"float16" })";
  const ModelConfig base = parse(odd);
  const std::string out = write_model_config(base, extend_rope(base, linear(), 1024), "float32", true, "9");
  EXPECT_EQ(out,
            R"({"model_type":"llama","vocab_size":10,"hidden_size":64,"intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":4,
   "max_position_embeddings" :  512, "rope_parameters" : {"rope_theta" : 1e4,"rope_type":"linear", "factor":2}, "x":"}\",{", "use_cache":true, "torch_dtype":"float32","tie_word_embeddings": true,"longlora_train": {
    "context": 1024,
    "base_context": 1024,
    "version": "9"
  } })");
}

TEST(WriteModelConfig, ReplacesTheNewShapeByTheOneEveryReaderKnows) {
  const ModelConfig base =
      parse(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 20000.0}, "model_type": "llama", "vocab_size": 10,
    "hidden_size": 64, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 512, "dtype": "float32"})");
  const std::string out = write_model_config(base, extend_rope(base, linear(), 1024), "bfloat16", false, "1");
  const JsonValue json = parse_json(out, "out");
  EXPECT_FALSE(json.find("rope_parameters"));
  EXPECT_EQ(json.find("rope_theta")->number(), 20000);
  EXPECT_EQ(*json.find("dtype")->string(), "bfloat16");
  EXPECT_FALSE(json.find("torch_dtype")) << "one spelling is enough";
  EXPECT_TRUE(std::holds_alternative<double>(json.find("rope_scaling")->find("factor")->value)) << "transformers 5 checks types";
  EXPECT_TRUE(std::holds_alternative<uint64_t>(json.find("max_position_embeddings")->value));
}

TEST(WriteModelConfig, IntegersAndFloatsKeepTheirKinds) {
  const ModelConfig base = parse(kTiny);
  RopeExtension e = extend_rope(base, {.scaling = RopeMethod::llama3, .factor = {}, .theta = {}}, 4096);
  const JsonValue scaling = *parse_json(write_model_config(base, e, "bfloat16", false, "1"), "out").find("rope_scaling");
  for (const char* key : {"factor", "low_freq_factor", "high_freq_factor"})
    EXPECT_TRUE(std::holds_alternative<double>(scaling.find(key)->value)) << key;
  EXPECT_EQ(scaling.find("original_max_position_embeddings")->unsigned_integer(), 512u);
  e = extend_rope(base, {.scaling = RopeMethod::dynamic, .factor = {}, .theta = {}}, 4096);
  EXPECT_TRUE(parse_json(write_model_config(base, e, "bfloat16", false, "1"), "out").find("rope_scaling")->is_null());
}

TEST(MakeModelConfig, ReadsBackEqual) {
  ModelConfig c = parse(with("eos_token_id", "[2, 7]"));
  c.tied = true;
  c.pad_token = 9;
  c.rope = {.type = RopeType::yarn,
            .theta = 12345.5,
            .factor = 4,
            .original_max_position = 128,
            .beta_fast = 24,
            .mscale = 0.7,
            .mscale_all_dim = 0.5,
            .truncate = false};
  const ModelConfig back = parse(make_model_config(c, "float32"));
  EXPECT_EQ(back.rope, c.rope);
  EXPECT_EQ(back.eos_tokens, c.eos_tokens);
  EXPECT_EQ(back.pad_token, 9);
  EXPECT_TRUE(back.tied);
  EXPECT_EQ(back.head_dim, 16);
  EXPECT_EQ(back.rms_norm_eps, 1e-5);
  EXPECT_EQ(make_model_config(back, "float32"), make_model_config(c, "float32"));
}

TEST(TensorTable, ListsEveryTensorOnceInVisitOrder) {
  ModelConfig c = parse(kTiny);
  const auto table = tensor_table(c);
  ASSERT_EQ(table.size(), 1u + 2 * 9 + 2);
  EXPECT_EQ(table.front().name, "model.embed_tokens.weight");
  EXPECT_EQ(table[1].name, "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(table[2].shape, (std::vector<int64_t>{32, 64}));
  EXPECT_EQ(table[18].name, "model.layers.1.post_attention_layernorm.weight");
  EXPECT_EQ(table[18].layer, 1);
  EXPECT_EQ(table.back().name, "lm_head.weight");
  EXPECT_EQ(table.back().role, Role::head);
  c.tied = true;
  EXPECT_EQ(tensor_table(c).back().name, "model.norm.weight");
}

}  // namespace
}  // namespace longlora
