// Reading rules of configuration files: what is refused, with which sentence and place.

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "longlora/config/scalar_text.h"
#include "support/error_of.h"
#include "support/temp_dir.h"
#include "valid_text.h"

namespace longlora {
namespace {

using testing::HasSubstr;

std::vector<std::string> problems_of(std::string_view text, std::string_view source = "run.yaml") {
  return details_of([&] { parse_config(text, source); });
}

/// The rest of a valid configuration, so that only the tested line is wrong.
std::string with(std::string_view line) { return kValidYaml + std::string(line) + "\n"; }

TEST(Reading, AnUnknownKeyIsNamedWithPlaceAndNearestKey) {
  EXPECT_EQ(error_of([] { parse_config(with("attention: {group_sise: 4}"), "run.yaml"); }),
            "attention.group_sise: unknown key (run.yaml:7:13); did you mean 'attention.group_size'?");
  EXPECT_EQ(kind_of([] { parse_config(with("attention: {group_sise: 4}"), "run.yaml"); }), ErrorKind::config);
}

TEST(Reading, EveryRuleOfTheTextHasItsSentence) {
  const struct {
    std::string line, expected;
  } cases[] = {
      {"optimizer: {eps: 1e-6, eps: 1e-7}", "run.yaml:7:24: duplicate key 'eps', first at run.yaml:7:13; remove one of the two"},
      {"optimizer: &x {eps: 1e-6}", "run.yaml:7:12: anchor '&x' is not allowed; write the value where it is needed"},
      {"optimizer: {eps: *x}", "run.yaml:7:18: alias '*x' is not allowed; write the value itself"},
      {"optimizer: {eps: !!float 1}", "run.yaml:7:18: tag 'tag:yaml.org,2002:float' is not allowed; remove it; the key decides the type"},
      {"optimizer: {<<: {eps: 1}}", "run.yaml:7:13: merge key '<<' is not allowed; use `preset`, or write the keys themselves"},
      {"? [a, b]\n: 1", "run.yaml:7:3: a list as a key; keys are plain words"},
      {"---\nlog: {every: 2}", "run.yaml:7:1: a second document begins; keep one document in a file"},
      {"log: {every: 010}", "run.yaml:7:14: log.every: got '010', expected an integer in [1, 2147483648]; write 10"},
      {"log: {every: 0x10}", "run.yaml:7:14: log.every: got '0x10', expected an integer in [1, 2147483648]; write 16"},
      {"log: {every: 1_000}", "run.yaml:7:14: log.every: got '1_000', expected an integer in [1, 2147483648]; write 1000"},
      {"log: {every: 2e3}", "run.yaml:7:14: log.every: got '2e3', expected an integer in [1, 2147483648]; write 2000"},
      {"log: {every: '5'}", "run.yaml:7:14: log.every: got the string '5', expected an integer in [1, 2147483648]; write 5 without quotes"},
      {"log: {tensorboard: on}", "run.yaml:7:20: log.tensorboard: got 'on', expected true or false; write true"},
      {"log: {tensorboard: No}", "run.yaml:7:20: log.tensorboard: got 'No', expected true or false; write false"},
      {"rope: {factor: .inf}", "run.yaml:7:16: rope.factor: got '.inf', expected a number in [1, 4096]; write a finite decimal number"},
      {"rope: {factor: 0.5}", "run.yaml:7:16: rope.factor: got '0.5', expected a number in [1, 4096]; give a number in [1, 4096]"},
      {"rope: {scaling: liner}",
       "run.yaml:7:17: rope.scaling: got 'liner', expected one of none, linear, dynamic, ntk, yarn, llama3; "
       "did you mean 'linear'?"},
      {"attention: {group_size: 1001}", "run.yaml:7:25: attention.group_size: got 1001, must be even; use 1000 or 1002"},
      {"memory: {host_budget: 5gb}",
       "run.yaml:7:23: memory.host_budget: got '5gb', expected an integer in [1048576, 1125899906842624], or like "
       "5GB or 2GiB; write 5GB"},
      {"optimizer: {betas: [0.9]}", "run.yaml:7:20: optimizer.betas: got 1 numbers, expected 2; write that many"},
      {"optimizer: 5", "run.yaml:7:12: optimizer: got '5', expected a section with keys; write optimizer: {key: value}"},
      {"optimizer.eps: 1e-6", "run.yaml:7:1: optimizer.eps: unknown key; did you mean 'optimizer.eps'?"},
      {"log: {every: [}", "run.yaml:7:15: not valid YAML: did not find expected node content; check indentation, quotes and brackets here"},
  };
  for (const auto& test : cases) {
    const std::vector<std::string> found = problems_of(with(test.line));
    ASSERT_FALSE(found.empty()) << test.line;
    EXPECT_EQ(found.front(), test.expected);
    if (test.line != "optimizer: {eps: *x}") EXPECT_EQ(found.size(), 1u) << test.line;
  }
}

TEST(Reading, BytesAndSizeAreCheckedBeforeTheParserSeesThem) {
  EXPECT_EQ(problems_of("a: \"\xff\"").front(), "run.yaml:1:5: invalid UTF-8; save the file as UTF-8");
  EXPECT_EQ(problems_of(std::string("a: b\n\x01", 6)).front(), "run.yaml:2:1: control character \\x01; remove it");
  EXPECT_EQ(problems_of(std::string("a: \0b", 5)).front(), "run.yaml:1:4: control character \\x00; remove it");
  EXPECT_EQ(problems_of(std::string((size_t{1} << 20) + 1, '#')).front(),
            "run.yaml: 1048577 bytes, at most 1048576 allowed; give a configuration file");
  EXPECT_EQ(problems_of("%YAML 1.2\n---\n" + kValidYaml).front(), "run.yaml:1:1: a YAML directive (%...) is not allowed; remove the line");
  for (const char* empty : {"", "# only a comment\n", "---\n", "~\n"})
    EXPECT_NE(problems_of(empty).front().find("the document is empty"), std::string::npos) << empty;
  EXPECT_EQ(problems_of("- a\n").front(),
            "run.yaml:1:1: found a list, expected a mapping; write sections with keys, as `config print` shows them");
}

TEST(Reading, BombsAreBounded) {
  std::string deep, wide = "[";
  for (int i = 0; i < 1000; ++i) deep += "[";
  for (int i = 0; i < 120000; ++i) wide += "1,";
  EXPECT_EQ(problems_of("a: " + deep).front(), "run.yaml:1:11: nested deeper than 8 levels; no key needs that");
  EXPECT_EQ(problems_of("a: " + wide + "1]").front(), "run.yaml: more than 100000 YAML events; give a configuration file");
  EXPECT_EQ(problems_of("{\"a\": " + deep, "run.json").front(), "run.json:1:14: nested deeper than 8 levels; correct the JSON text");
}

TEST(Reading, JsonFollowsTheSameRules) {
  const std::string valid = canonical_json(valid_config());
  EXPECT_EQ(canonical_json(parse_config(valid, "a.json").config), valid);
  EXPECT_EQ(problems_of("{\"a\":1,\"a\":2}", "run.json").front(), "run.json:1:8: duplicate key \"a\"; correct the JSON text");
  EXPECT_EQ(problems_of("{\"train\": {\"sede\": 1}}", "run.json").front(),
            "run.json:1:12: train.sede: unknown key; did you mean 'train.seed'?");
  EXPECT_EQ(problems_of("{\"train\": {\"seed\": \"1\"}}", "run.json").front(),
            "run.json:1:20: train.seed: got the string '1', expected an integer in [0, 9223372036854775807]; write 1 without quotes");
  EXPECT_EQ(problems_of("{\"output_dir\": 5}", "run.json").front(), "run.json:1:16: output_dir: got '5', expected text; give text");
  EXPECT_EQ(problems_of("[]", "run.json").front(), "run.json:1:1: found a list, expected an object; write { ... }");
}

TEST(Reading, SizesHaveUnits) {
  const auto length = [](const std::string& text) {
    return parse_config("model: {path: m}\ndata: {train: [{path: b}], sequence_length: " + text + "}\ntrain: {steps: 1}\noutput_dir: o",
                        "a")
        .config.data.sequence_length;
  };
  EXPECT_EQ(length("32k"), 32768);
  EXPECT_EQ(length("100000"), 100000);
  EXPECT_EQ(length("1M"), 1048576);
  EXPECT_EQ(length("1.5k"), 1536);
  const auto budget = [](const std::string& text) {
    return *parse_config(with("memory: {host_budget: " + text + "}"), "a").config.memory.host_budget;
  };
  EXPECT_EQ(budget("5GB"), 5000000000);
  EXPECT_EQ(budget("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(budget("1.5GiB"), int64_t{3} << 29);
  EXPECT_EQ(budget("1.1GiB"), 1181116006) << "rounded down to whole bytes";
  EXPECT_EQ(parse_config(with("optimizer: {learning_rate: 2e-5}"), "a").config.optimizer.learning_rate, 2e-5);
}

TEST(Reading, SizesOfFlags) {
  EXPECT_EQ(size_of_flag("32k", Unit::tokens, "--context"), 32768);
  EXPECT_EQ(size_of_flag("500kB", Unit::bytes, "--max-shard-size"), 500000);
  EXPECT_EQ(size_of_flag("1048576", Unit::bytes, "--max-shard-size"), 1048576);
  EXPECT_EQ(size_of_flag("74.5", Unit::bytes, "--device-memory", "GiB"), 79993765888);
  EXPECT_EQ(size_of_flag("80GB", Unit::bytes, "--device-memory", "GiB"), 80000000000);
  const auto refused = [](const std::string& text, Unit unit, const std::string& flag, std::string_view bare_unit) {
    const Error error = *thrown_by([&] { size_of_flag(text, unit, flag, bare_unit); });
    EXPECT_EQ(error.kind, ErrorKind::usage);
    return std::string(error.what());
  };
  EXPECT_EQ(refused("32K", Unit::tokens, "--context", ""),
            "got '32K', expected a positive number of tokens, or like 32k (--context); write 32k");
  EXPECT_EQ(refused("4kB", Unit::tokens, "--context", ""),
            "got '4kB', expected a positive number of tokens, or like 32k (--context); write for example 4096 or 32k");
  EXPECT_EQ(refused("5 gb", Unit::bytes, "--max-shard-size", ""),
            "got '5 gb', expected a positive number of bytes, or like 5GB or 2GiB (--max-shard-size); write 5GB");
  EXPECT_EQ(refused("all", Unit::bytes, "--device-memory", "GiB"),
            "got 'all', expected a positive number of GiB, or like 5GB or 2GiB (--device-memory); write for example 5GB or 2GiB");
  for (const char* text : {"", "0", "-4", "0GiB", "-1GiB", "1e999", "99999999999999999999"})
    EXPECT_THAT(refused(text, Unit::bytes, "--host-memory", "GiB"), HasSubstr("write for example")) << text;
}

TEST(Reading, AllProblemsAreReportedTogetherAndCounted) {
  const std::string text =
      "model: {path: m, dtpye: bf16}\n"
      "attention: {group_size: 1001, kind: s3}\n"
      "train: {seed: 010, steps: 5, epochs: 1}\n"
      "optimiser: {eps: 1}\n";
  const Error error = *thrown_by([&] { parse_config(text, "run.yaml"); });
  const std::vector<std::string> expected = {
      "run.yaml:1:18: model.dtpye: unknown key; did you mean 'model.dtype'?",
      "run.yaml:2:25: attention.group_size: got 1001, must be even; use 1000 or 1002",
      "run.yaml:2:37: attention.kind: got 's3', expected one of s2, full, s2_wrap; did you mean 's2'?",
      "run.yaml:3:15: train.seed: got '010', expected an integer in [0, 9223372036854775807]; write 10",
      "run.yaml:4:1: optimiser: unknown key; did you mean 'optimizer'?",
      "run.yaml: data.train: is required and not given; add data.train: [{path: FILE}]",
      "run.yaml: data.sequence_length: is required and not given; add data.sequence_length: 32k",
      "run.yaml: output_dir: is required and not given; add output_dir: FOLDER",
      "run.yaml:3:38: train.epochs: given together with train.steps (run.yaml:3:27); keep one of them"};
  EXPECT_EQ(error.details, expected);
  EXPECT_EQ(
      error_line(error),
      "longlora-train: error[config]: 9 problems in the configuration; the first: model.dtpye: unknown key (run.yaml:1:18); did you mean "
      "'model.dtype'?");
}

TEST(Reading, FilesThatAreNoConfigurationAreRefusedAtOnce) {
  const TempDir dir;
  const auto kind_for = [](const std::filesystem::path& path) { return kind_of([&] { load_config({path, {}, {}}); }); };
  EXPECT_EQ(kind_for(dir / "absent.yaml"), ErrorKind::missing);
  EXPECT_EQ(kind_for(dir.path()), ErrorKind::config);
  ASSERT_EQ(::mkfifo((dir / "pipe.yaml").c_str(), 0600), 0);
  EXPECT_EQ(kind_for(dir / "pipe.yaml"), ErrorKind::config);
  dir.write("large.yaml", std::string((size_t{1} << 20) + 1, ' '));
  EXPECT_EQ(kind_for(dir / "large.yaml"), ErrorKind::config);
  std::filesystem::resize_file(dir / "large.yaml", uint64_t{1} << 30);  // sparse
  EXPECT_EQ(kind_for(dir / "large.yaml"), ErrorKind::config);
}

TEST(Reading, RequiredKeysAreNotReportedWhenOnlyMisspelt) {
  const std::vector<std::string> found =
      problems_of("modell: {path: m}\ndata: {trian: [{path: b}], sequence_length: 512}\ntrain: {step: 5}\noutput_dri: x\n");
  for (const std::string& line : found)
    EXPECT_TRUE(line.find("unknown key") != std::string::npos || line.find("model.path") != std::string::npos) << line;
  EXPECT_EQ(found.size(), 5u);  // four misspellings; what stood inside `modell` is unknown
}

}  // namespace
}  // namespace longlora
