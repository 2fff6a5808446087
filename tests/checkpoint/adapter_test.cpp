#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "checkpoint/tiny_model.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "support/error_of.h"

namespace longlora {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

struct Adapter : testing::TestWithParam<bool> {
  TempDir dir;
  BaseModel base{make_tiny(dir, "base", {.tied = GetParam()})};

  std::unique_ptr<LlamaModel> loaded(const TrainConfig::Tuning& tuning, ComputeType compute = ComputeType::fp32) {
    auto model = make_model(base.config, tuning, compute);
    load_base_weights(*model, base, true);
    return model;
  }
  std::unique_ptr<LlamaModel> trained(const TrainConfig::Tuning& tuning = lora_tuning()) {
    auto model = loaded(tuning);
    disturb(*model);
    return model;
  }
  std::vector<std::string> keys(const std::string& folder) {
    std::vector<std::string> names;
    const auto source = open_safetensors(dir / folder / "adapter_model.safetensors");
    for (const TensorInfo& info : source->tensors()) names.push_back(info.name);
    return names;
  }
};
INSTANTIATE_TEST_SUITE_P(Heads, Adapter, testing::Values(false, true), [](const auto& i) { return i.param ? "Tied" : "Untied"; });

TEST_P(Adapter, ReturnsEveryBitAndTheTuning) {
  TrainConfig::Tuning tuning = lora_tuning(3);
  tuning.lora.alpha = 7;
  tuning.lora.rslora = true;
  tuning.lora.drop_probability = 0.25;
  tuning.lora.targets = {LoraTarget::q_proj, LoraTarget::v_proj, LoraTarget::down_proj};
  const auto model = trained(tuning);
  export_peft(*model, context_of(base), dir / "adapter");
  const AdapterInfo info = read_adapter_info(dir / "adapter", base.config);
  EXPECT_EQ(info.tuning.lora.rank, 3);
  EXPECT_EQ(info.tuning.lora.alpha, 7);
  EXPECT_EQ(info.tuning.lora.drop_probability, 0.25);
  EXPECT_TRUE(info.tuning.lora.rslora);
  EXPECT_EQ(info.tuning.lora.targets, tuning.lora.targets);
  EXPECT_EQ(info.base_model, base.path.string());
  const auto other = loaded(info.tuning);
  EXPECT_NE(masters_of(*other), masters_of(*model));
  load_adapter(*other, dir / "adapter");
  EXPECT_EQ(masters_of(*other), masters_of(*model));
}

TEST_P(Adapter, RecordsTheRopeOfTraining) {
  const auto model = trained();
  export_peft(*model, context_of(base, 250), dir / "adapter");
  const AdapterInfo info = read_adapter_info(dir / "adapter", base.config);
  ASSERT_TRUE(info.rope);
  EXPECT_EQ(*info.rope, context_of(base, 250).rope.after);
  EXPECT_EQ(info.rope->type, RopeType::linear);
  EXPECT_EQ(info.rope->factor, 4);
  EXPECT_EQ(info.max_position, context_of(base, 250).rope.new_max_position);
  EXPECT_EQ(info.context, 250);
  EXPECT_EQ(info.base_context, 64);
  EXPECT_EQ(info.group, 64);
  EXPECT_EQ(info.attention, AttentionKind::s2);
  EXPECT_THAT(dir.read("adapter/README.md"),
              HasSubstr(R"(rope_parameters={"type":"linear","rope_type":"linear","factor":4.0,"rope_theta":10000.0})"));
  EXPECT_THAT(dir.read("adapter/README.md"), HasSubstr("max_position_embeddings=250"));
}

TEST_P(Adapter, UnchangedRopeIsTheBases) {
  const auto model = trained();
  export_peft(*model, context_of(base, 64), dir / "adapter");
  const AdapterInfo info = read_adapter_info(dir / "adapter", base.config);
  EXPECT_EQ(*info.rope, base.config.rope);
  EXPECT_EQ(info.max_position, 64);
}

TEST_P(Adapter, ConfigLeavesNothingToDefaults) {
  const auto model = trained();
  export_peft(*model, context_of(base), dir / "adapter");
  const JsonValue config = parse_json(dir.read("adapter/adapter_config.json"), "adapter_config.json");
  for (const char* key :
       {"peft_type", "task_type", "base_model_name_or_path", "r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "bias",
        "fan_in_fan_out", "inference_mode", "init_lora_weights", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "revision"}) {
    EXPECT_NE(config.find(key), nullptr) << key;
  }
  EXPECT_EQ(dump_json(*config.find("target_modules")), R"(["q_proj","k_proj","v_proj","o_proj"])");
  EXPECT_EQ(dump_json(*config.find("modules_to_save")), R"(["input_layernorm","post_attention_layernorm","norm","embed_tokens"])");
  EXPECT_EQ(dump_json(*config.find("lora_alpha")), "16");
  EXPECT_EQ(config.find("ensure_weight_tying") != nullptr, GetParam());
  const auto names = keys("adapter");
  EXPECT_THAT(names, Contains("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"));
  EXPECT_THAT(names, Contains("base_model.model.model.embed_tokens.weight"));
  EXPECT_THAT(names, Contains("base_model.model.model.norm.weight"));
  EXPECT_EQ(names.size(), 2u * 4 * 2 + 5 + 1 + (GetParam() ? 1 : 0));
  if (GetParam()) EXPECT_THAT(names, Contains("base_model.model.lm_head.weight"));
}

TEST_P(Adapter, WithoutSavedModulesTheListIsNull) {
  TrainConfig::Tuning tuning = lora_tuning();
  tuning.train_norms = tuning.train_embeddings = false;
  const auto model = trained(tuning);
  export_peft(*model, context_of(base), dir / "adapter");
  EXPECT_THAT(dir.read("adapter/adapter_config.json"), HasSubstr("\"modules_to_save\": null"));
  const AdapterInfo info = read_adapter_info(dir / "adapter", base.config);
  EXPECT_FALSE(info.tuning.train_norms);
  EXPECT_FALSE(info.tuning.train_embeddings);
}

TEST_P(Adapter, ExistingTargetAndFullTuningAreRefused) {
  const auto model = trained();
  dir.write("taken/file", "x");
  EXPECT_EQ(kind_of([&] { export_peft(*model, context_of(base), dir / "taken"); }), ErrorKind::busy);
  EXPECT_EQ(kind_of([&] { export_peft(*loaded(full_tuning()), context_of(base), dir / "new"); }), ErrorKind::config);
  EXPECT_FALSE(std::filesystem::exists(dir / "new"));
}

/// adapter_model.safetensors with renamed or added tensors.
void rewrite(const TempDir& dir, const std::function<void(std::vector<NamedTensor>&)>& change) {
  const auto file = dir / "adapter/adapter_model.safetensors";
  std::vector<NamedTensor> tensors;
  {
    const auto source = open_safetensors(file);
    for (const TensorInfo& info : source->tensors()) tensors.push_back({info.name, info.shape, read_floats(*source, info)});
  }
  change(tensors);
  std::filesystem::remove(file);
  write_tensors(file, tensors, DType::f32);
}

TEST_P(Adapter, AcceptsTheKeyVariantsOfPeft) {
  const auto model = trained();
  export_peft(*model, context_of(base), dir / "adapter");
  rewrite(dir, [](auto& tensors) {
    for (NamedTensor& tensor : tensors) {
      const bool is_lora = tensor.name.find("lora_") != std::string::npos;
      const size_t dot = tensor.name.rfind(".weight");
      tensor.name.insert(dot, is_lora ? ".default" : ".modules_to_save.default");
    }
  });
  const auto other = loaded(read_adapter_info(dir / "adapter", base.config).tuning);
  load_adapter(*other, dir / "adapter");
  EXPECT_EQ(masters_of(*other), masters_of(*model));
}

TEST_P(Adapter, RefusesWhatDoesNotFitTheBase) {
  const auto model = trained();
  export_peft(*model, context_of(base), dir / "adapter");
  const auto error = [&] { return error_of([&] { read_adapter_info(dir / "adapter", base.config); }); };
  EXPECT_EQ(error(), "");
  rewrite(dir, [](auto& t) {
    t.push_back({"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", {4, 24}, std::vector<float>(96)});
  });
  EXPECT_THAT(error(), HasSubstr("layers.9.self_attn.q_proj.lora_A.weight has no counterpart in the base model"));
  rewrite(dir, [](auto& t) {
    for (NamedTensor& tensor : t) {
      if (tensor.name.find("layers.9") != std::string::npos) tensor.name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight";
    }
  });
  EXPECT_THAT(error(), HasSubstr("17 LoRA tensors, expected 20"));
  rewrite(dir,
          [](auto& t) { std::erase_if(t, [](const NamedTensor& tensor) { return tensor.name.find("up_proj") != std::string::npos; }); });
  dir.write("adapter/adapter_config.json", R"({"peft_type": "LORA", "r": 5})");
  EXPECT_THAT(error(),
              HasSubstr("16 problems, first: tensor base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight has shape [4, 24], "
                        "expected [5, 24]"));
}

TEST_P(Adapter, RefusesOtherKindsByKey) {
  const auto model = trained();
  export_peft(*model, context_of(base), dir / "adapter");
  const struct {
    const char *config, *message;
  } cases[] = {
      {R"({"peft_type": "IA3", "r": 4})", "adapter_config.json: peft_type"},
      {R"({"peft_type": "LORA", "r": 4, "bias": "all"})", "adapter_config.json: bias"},
      {R"({"peft_type": "LORA", "r": 4, "use_dora": true})", "adapter_config.json: use_dora"},
      {R"({"peft_type": "LORA", "r": 4, "rank_pattern": {"q_proj": 8}})", "adapter_config.json: rank_pattern"},
      {R"({"peft_type": "LORA", "r": 4, "layers_to_transform": [0]})", "adapter_config.json: layers_to_transform"},
      {R"({"peft_type": "LORA", "r": 0})", "adapter_config.json: r"},
      {R"({"peft_type": "LORA"})", "adapter_config.json: r"},
      {R"({"peft_type": "LORA", "r": 4, "lora_alpha": "x"})", "adapter_config.json: lora_alpha"},
  };
  for (const auto& c : cases) {
    dir.write("adapter/adapter_config.json", c.config);
    EXPECT_THAT(error_of([&] { read_adapter_info(dir / "adapter", base.config); }), HasSubstr(c.message));
    EXPECT_EQ(kind_of([&] { read_adapter_info(dir / "adapter", base.config); }), ErrorKind::data);
  }
  dir.write("adapter/adapter_config.json",
            R"({"peft_type": "LORA", "r": 4, "use_dora": false, "rank_pattern": {}, "target_modules": "all-linear"})");
  EXPECT_EQ(read_adapter_info(dir / "adapter", base.config).tuning.lora.alpha, 8);  // PEFT's own default
}

TEST_P(Adapter, TiedHeadMustEqualTheEmbedding) {
  if (!GetParam()) return;
  const auto model = trained();
  export_peft(*model, context_of(base), dir / "adapter");
  rewrite(dir, [](auto& tensors) {
    for (NamedTensor& t : tensors) {
      if (t.name.ends_with("lm_head.weight")) t.values[0] += 1;
    }
  });
  EXPECT_THAT(error_of([&] { read_adapter_info(dir / "adapter", base.config); }), HasSubstr("lm_head differs from embed_tokens"));
}

TEST_P(Adapter, LongLoraLayoutWithAPadRow) {
  TrainConfig::Tuning tuning = lora_tuning();
  tuning.train_norms = tuning.train_embeddings = false;
  export_peft(*trained(tuning), context_of(base), dir / "adapter");
  std::filesystem::remove(dir / "adapter/longlora_train.json");
  const auto values = random_values("pad", 41 * 24);
  write_tensors(dir / "adapter/trainable_params.safetensors",
                {{"model.embed_tokens.weight", {41, 24}, values}, {"model.norm.weight", {24}, random_values("norm", 24)}}, DType::f32);
  const AdapterInfo info = read_adapter_info(dir / "adapter", base.config);
  EXPECT_TRUE(info.tuning.train_norms && info.tuning.train_embeddings);
  EXPECT_FALSE(info.rope.has_value());
  const auto model = loaded(info.tuning);
  load_adapter(*model, dir / "adapter");
  const auto masters = masters_of(*model);
  EXPECT_EQ(masters.at("model.embed_tokens.weight"), std::vector<float>(values.begin(), values.begin() + 40 * 24));
  EXPECT_EQ(masters.at("model.norm.weight"), random_values("norm", 24));
  std::filesystem::remove(dir / "adapter/trainable_params.safetensors");
  write_tensors(dir / "adapter/trainable_params.safetensors", {{"model.embed_tokens.weight", {39, 24}, random_values("few", 39 * 24)}},
                DType::f32);
  EXPECT_THAT(error_of([&] { read_adapter_info(dir / "adapter", base.config); }), HasSubstr("has shape [39, 24], expected [40, 24]"));
}

}  // namespace
}  // namespace longlora
