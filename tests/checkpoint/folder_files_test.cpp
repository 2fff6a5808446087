#include "checkpoint/folder_files.h"

#include <gtest/gtest.h>

#include "checkpoint/adapter_names.h"

namespace longlora {
namespace {

TEST(TokenizerConfig, OnlyTheNumberOfASmallerLimitChanges) {
  const struct {
    std::string before, after;
  } cases[] = {
      {"{\"model_max_length\": 64}", "{\"model_max_length\": 4096}"},
      {"{\n\t\"a\": \"\xc3\xa9\",\n   \"model_max_length\" :2048 ,\n \"b\": 2048}\n",
       "{\n\t\"a\": \"\xc3\xa9\",\n   \"model_max_length\" :4096 ,\n \"b\": 2048}\n"},
      {"{\"model_max_length\": 4096}", "{\"model_max_length\": 4096}"},
      {"{\"model_max_length\": 1000000000000000019884624838656}", "{\"model_max_length\": 1000000000000000019884624838656}"},
      {"{\"model_max_length\": null}", "{\"model_max_length\": null}"},
      {"{\"other\": {\"model_max_length\": 1}}", "{\"other\": {\"model_max_length\": 1}}"},
  };
  for (const auto& c : cases) EXPECT_EQ(with_model_max_length(c.before, 4096, "T"), c.after);
}

TEST(GenerationConfig, SamplingIsDeclaredAndShortLimitsGo) {
  const struct {
    std::string before, after;
  } cases[] = {
      {"{ \"a\":1 }", "{ \"a\":1 }"},  // nothing to do: the same bytes
      {"{\"temperature\": 0.6}", "{\n  \"temperature\": 0.6,\n  \"do_sample\": true\n}\n"},
      {"{\"top_p\": 0.9, \"do_sample\": false}", "{\"top_p\": 0.9, \"do_sample\": false}"},
      {"{\"temperature\": null}", "{\"temperature\": null}"},
      {"{\"max_length\": 4095, \"x\": 2}", "{\n  \"x\": 2\n}\n"},
      {"{\"max_length\": 4096}", "{\"max_length\": 4096}"},
  };
  for (const auto& c : cases) EXPECT_EQ(adapted_generation_config(c.before, 4096, "G"), c.after);
}

TEST(AdapterNames, RoundTripAndVariants) {
  const std::string lora = "model.layers.3.mlp.up_proj.lora_A.weight";
  EXPECT_EQ(parameter_name(peft_name(lora)), lora);
  EXPECT_EQ(parameter_name("base_model.model.model.layers.3.mlp.up_proj.lora_A.default.weight"), lora);
  EXPECT_EQ(parameter_name("base_model.model.model.norm.modules_to_save.default.weight"), "model.norm.weight");
  EXPECT_EQ(parameter_name("model.norm.weight"), "model.norm.weight");
  EXPECT_EQ(lora_target_of(lora), "up_proj");
  EXPECT_EQ(lora_target_of("model.norm.weight"), "");
}

}  // namespace
}  // namespace longlora
