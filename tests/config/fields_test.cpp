// Every key of the table: values go in and come out unchanged, by every way in.

#include "config/fields.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "config/codec.h"
#include "config/key_index.h"
#include "support/error_of.h"
#include "valid_text.h"

namespace longlora {
namespace {

/// A legal value of `key` that is not the default, as YAML (and JSON) text. Keys whose only supported value is the default: "".
std::string other_value(const std::string& key) {
  static const std::map<std::string, std::string> kValues = {
      {"model.path", "\"models/other\""}, {"model.dtype", "\"bf16\""}, {"model.init", "\"random\""}, {"rope.scaling", "\"yarn\""},
      {"rope.factor", "8.0"}, {"rope.theta", "500000.0"}, {"attention.kind", "\"full\""}, {"attention.group_ratio", "0.125"},
      {"attention.group_size", "1000"}, {"attention.group_preset", "\"longlora_sft\""}, {"attention.pattern", "\"shifted_only\""},
      {"attention.full_steps", "7"}, {"tuning.mode", "\"full\""}, {"tuning.lora.rank", "16"}, {"tuning.lora.alpha", "32.0"},
      {"tuning.lora.drop_probability", "0.05"}, {"tuning.lora.rslora", "true"}, {"tuning.lora.targets", "[\"q_proj\",\"down_proj\"]"},
      {"tuning.train_norms", "false"}, {"tuning.train_embeddings", "false"}, {"tuning.train_head", "true"},
      {"data.train", "[{\"path\":\"a b\",\"format\":\"jsonl\",\"field\":\"body\",\"weight\":0.25},"
                     "{\"path\":\"c\",\"weight\":2.0,\"split\":\"separator\",\"separator\":\"# {x}: \\\"y\\\"\"}]"},
      {"data.validation", "[{\"path\":\"v.txt\"}]"}, {"data.sequence_length", "32768"}, {"data.shuffle", "false"}, {"data.prefetch", "0"},
      {"data.eos", "2"}, {"data.parse_special_tokens", "true"}, {"data.max_record_bytes", "1000"}, {"data.allow_append", "true"},
      {"data.document_mask", "true"}, {"train.steps", "9"}, {"train.epochs", "1.5"}, {"train.global_batch", "8"},
      {"train.micro_batch", "2"}, {"train.seed", "9223372036854775807"}, {"optimizer.learning_rate", "0.001"},
      {"optimizer.betas", "[0.8,0.999]"}, {"optimizer.eps", "1e-06"}, {"optimizer.weight_decay", "0.1"}, {"optimizer.clip_norm", "0.5"},
      {"optimizer.embedding_learning_rate", "1e-05"}, {"optimizer.norm_learning_rate", "3e-05"}, {"schedule.kind", "\"cosine\""},
      {"schedule.warmup_steps", "0"}, {"schedule.floor", "0.1"}, {"precision.compute", "\"bf16\""}, {"memory.policy", "\"checkpoint\""},
      {"memory.halo_streaming", "\"off\""}, {"memory.device_budget", "2147483648"}, {"memory.host_budget", "5000000000"},
      {"memory.on_oom", "\"stop\""}, {"device", "\"cpu\""}, {"dist.backend", "\"single\""}, {"dist.shard_weights", "\"none\""},
      {"dist.shard_state", "\"off\""}, {"dist.timeout_seconds", "60"}, {"checkpoint.every", "5"}, {"checkpoint.keep", "3"},
      {"checkpoint.dir", "\"elsewhere: #1\""}, {"evaluate.every", "0"}, {"evaluate.perplexity.contexts", "[512,1024]"},
      {"evaluate.perplexity.max_tokens", "1024"}, {"evaluate.attention", "\"as_trained\""}, {"weights.check_finite", "false"},
      {"nonfinite.action", "\"skip\""}, {"log.every", "10"}, {"log.tensorboard", "false"}, {"output_dir", "\"out/other\""},
      {"deterministic", "false"}};
  const auto found = kValues.find(key);
  return found == kValues.end() ? "" : found->second;
}

/// Later document parts win in none of our formats, so the changed key replaces its line: built from the parsed valid configuration.
std::string json_with(const std::string& key, const std::string& value) {
  nlohmann::json root = nlohmann::json::parse(canonical_json(valid_config()));
  nlohmann::json* place = &root;
  for (const std::string& name : split(key, '.')) place = &(*place)[name];
  *place = nlohmann::json::parse(value);
  if (key == "train.epochs") root["train"]["steps"] = nullptr;
  return root.dump();
}

TEST(Fields, EveryKeyOfTheTableIsKnownAndUnique) {
  const std::set<std::string> unique(all_keys().begin(), all_keys().end());
  EXPECT_EQ(unique.size(), all_keys().size());
  EXPECT_EQ(unique.size(), 81u) << "a key was added or removed: extend other_value() and this count";
  for (const KeyInfo& key : config_keys()) EXPECT_FALSE(key.help.empty()) << key.key;
}

TEST(Fields, OtherValuesGoThroughJsonAndYamlAlike) {
  size_t checked = 0;
  for (const std::string& key : all_keys()) {
    const std::string value = other_value(key);
    if (value.empty()) continue;
    const TrainConfig from_json = parse_config(json_with(key, value), "a.json").config;
    const TrainConfig from_yaml = parse_config(json_with(key, value), "a.yaml").config;
    EXPECT_EQ(canonical_json(from_json), canonical_json(from_yaml)) << key;
    if (key != "evaluate.every") EXPECT_NE(canonical_json(from_json), canonical_json(valid_config())) << key;
    const nlohmann::json written = nlohmann::json::parse(canonical_json(from_json));
    const nlohmann::json* place = &written;
    for (const std::string& name : split(key, '.')) place = &place->at(name);
    if (key != "data.train" && key != "data.validation") EXPECT_EQ(place->dump(), nlohmann::json::parse(value).dump()) << key;
    ++checked;
  }
  EXPECT_EQ(checked, 81u - 11u);   // preset and ten keys whose default is the only supported value
}

TEST(Fields, PrintedTextReadsBackToTheSameConfiguration) {
  for (const std::string& key : all_keys()) {
    if (other_value(key).empty()) continue;
    const LoadedConfig first = parse_config(json_with(key, other_value(key)), "a.json");
    for (const std::string& text : {print_config(first.config), print_config(first.config, first.origins)})
      EXPECT_EQ(canonical_json(parse_config(text, "b.yaml").config), canonical_json(first.config)) << text;
    EXPECT_EQ(canonical_json(parse_config(canonical_json(first.config), "b.json").config), canonical_json(first.config));
  }
}

TEST(Fields, EveryKeyTakesItsValueFromSetAndEnvironment) {
  for (const std::string& key : all_keys()) {
    std::string value = other_value(key);
    if (value.empty()) continue;
    const std::string expected = value_of(parse_config(json_with(key, value), "a.json").config, key);
    if (value.starts_with('"')) value = nlohmann::json::parse(value).get<std::string>();   // text stands as it is
    std::string variable = "LONGLORA_";
    for (const char c : key) variable += c == '.' ? std::string("__") : std::string(1, static_cast<char>(std::toupper(c)));
    std::vector<Assignment> base = {{"model.path", "models/tiny", "--set"}, {"data.train", "[{path: books.txt}]", "--set"},
                                    {"data.sequence_length", "4k", "--set"}, {"output_dir", "out/run", "--output-dir"}};
    if (key != "train.epochs") base.push_back({"train.steps", "100", "--set"});
    std::erase_if(base, [&](const Assignment& a) { return a.key == key; });
    const LoadedConfig from_environment = load_config({{}, {{variable, value}, {"LONGLORA_CONFIGS", "/nowhere"}}, base});
    EXPECT_EQ(value_of(from_environment.config, key), expected) << variable;
    EXPECT_EQ(from_environment.origins.at(key), variable);
    std::vector<Assignment> with_set = base;
    with_set.push_back({key, value, "--set"});
    EXPECT_EQ(value_of(load_config({{}, {}, with_set}).config, key), expected) << key;
  }
}

TEST(Fields, EveryNameOfEveryEnumerationIsReadAndPrinted) {
  size_t tables = 0, names = 0;
  TrainConfig config;
  visit_fields([&](const Row&, auto& member, const auto&) {
    using T = std::decay_t<decltype(member)>;
    if constexpr (std::is_enum_v<T>) {
      ++tables;
      for (const auto& name : names_of(T{})) {
        ++names;
        EXPECT_EQ(value_of_name<T>(name.text), name.value);
        EXPECT_EQ(value_of_name<T>(name_of_value(name.value)), name.value);
      }
    }
  }, config);
  EXPECT_EQ(tables, 20u);
  EXPECT_GT(names, 60u);
  EXPECT_EQ(name_of_value(RopeMethod::dynamic), "dynamic") << "ntk is a synonym, never printed";
  EXPECT_EQ(value_of_name<RopeMethod>("ntk"), RopeMethod::dynamic);
}

TEST(Fields, ResumeClassesFollowTheSpecification) {
  std::map<std::string, ResumeClass> classes;
  for (const KeyInfo& key : config_keys()) classes[key.key] = key.resume;
  for (const char* key : {"model.dtype", "rope.factor", "attention.kind", "attention.group_size", "tuning.lora.rank",
                          "data.sequence_length", "data.shuffle", "data.train", "train.global_batch", "train.micro_batch", "train.seed",
                          "optimizer.betas", "optimizer.eps", "precision.compute", "dist.sequence_parallel", "deterministic", "device"})
    EXPECT_EQ(classes.at(key), ResumeClass::frozen) << key;
  for (const char* key : {"optimizer.learning_rate", "optimizer.embedding_learning_rate", "optimizer.norm_learning_rate",
                          "optimizer.weight_decay", "optimizer.clip_norm", "schedule.kind", "schedule.warmup_steps", "schedule.floor",
                          "train.steps", "train.epochs", "attention.full_steps", "nonfinite.action", "data.allow_append"})
    EXPECT_EQ(classes.at(key), ResumeClass::explicit_) << key;
  for (const char* key : {"log.every", "checkpoint.every", "checkpoint.dir", "evaluate.every", "memory.policy", "weights.check_finite",
                          "dist.backend", "output_dir", "model.path", "data.validation", "data.prefetch"})
    EXPECT_EQ(classes.at(key), ResumeClass::free) << key;
}

TEST(Fields, DifferencesNameKeyValuesAndClass) {
  TrainConfig before = valid_config(), after = before;
  EXPECT_TRUE(differing_keys(before, after).empty());
  after.optimizer.learning_rate = 1e-4;
  after.train.seed = 7;
  after.rope.factor = 8;
  after.output_dir = "out/x";
  const std::vector<KeyDifference> found = differing_keys(before, after);
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ(found[0].key + " " + found[0].old_value + " " + found[0].new_value, "rope.factor null 8.0");
  EXPECT_EQ(found[1].key + " " + found[1].old_value + " " + found[1].new_value, "train.seed 42 7");
  EXPECT_EQ(found[2].key + " " + found[2].old_value + " " + found[2].new_value, "optimizer.learning_rate 2e-05 1e-04");
  EXPECT_EQ(found[3].key + " " + found[3].old_value + " " + found[3].new_value, "output_dir out/run out/x");
}

TEST(Fields, PathsOfDataAreFreeAndTheRestOfAnEntryIsFrozen) {
  TrainConfig before = valid_config(), moved = before, other = before;
  moved.data.train[0].path = "elsewhere/books.txt";
  other.data.train[0].format = "jsonl";
  EXPECT_EQ(differing_keys(before, moved).at(0).resume, ResumeClass::free);
  EXPECT_EQ(differing_keys(before, other).at(0).resume, ResumeClass::frozen);
  EXPECT_EQ(canonical_json(before, ResumeClass::frozen), canonical_json(moved, ResumeClass::frozen));
  EXPECT_NE(canonical_json(before, ResumeClass::frozen), canonical_json(other, ResumeClass::frozen));
}

TEST(Fields, CanonicalJsonIsSortedWithoutSpaceAndIgnoresOtherClasses) {
  const TrainConfig config = valid_config();
  const std::string text = canonical_json(config);
  EXPECT_EQ(text, nlohmann::json::parse(text).dump()) << "the library sorts keys and writes no white space";
  TrainConfig changed = config;
  changed.log.every = 9;
  changed.optimizer.learning_rate = 1;
  EXPECT_EQ(canonical_json(config, ResumeClass::frozen), canonical_json(changed, ResumeClass::frozen));
  EXPECT_NE(canonical_json(config, ResumeClass::explicit_), canonical_json(changed, ResumeClass::explicit_));
}

}  // namespace
}  // namespace longlora
