// tokenizer.json files that break one rule each: every one ends in ErrorKind::data that names the file and the part.
#include <gtest/gtest.h>

#include <random>

#include "support/error_of.h"
#include "tokenizer/support.h"

namespace longlora {
namespace {

struct Case {
  std::string json, message;
};

std::string steps(const char* type, const char* key, const std::string& step) {
  return std::string(R"({"type":")") + type + R"(",")" + key + "\":[" + step + "]}";
}
std::string added(const std::string& members) { return "[{" + members + "}]"; }
std::string single(const std::string& pieces, const std::string& tokens = "{}") {
  return R"({"type":"TemplateProcessing","single":)" + pieces + R"(,"special_tokens":)" + tokens + "}";
}

const std::string kSequenceA = R"({"Sequence":{"id":"A","type_id":0}})";
const std::string kSpecialB = R"({"SpecialToken":{"id":"B","type_id":0}})";

std::vector<Case> model_cases() {
  return {
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"[]", "got array, expected object"},
      {"{}", "key 'model' is missing"},
      {"{\"model\":null}", "key 'model' is missing"},
      {"{\"model\":3}", "got integer, expected object"},
      {R"({"model":{"type":"Unigram"}})", "model 'Unigram' is not supported, only BPE"},
      {R"({"model":{"type":"WordPiece"}})", "model 'WordPiece' is not supported"},
      {R"({"model":{"type":"WordLevel"}})", "model 'WordLevel' is not supported"},
      {R"({"model":{"type":"BPE","merges":[]}})", "key 'vocab' is missing"},
      {R"({"model":{"type":"BPE","vocab":{"a":0}}})", "key 'merges' is missing"},
      {JsonParts{.vocab = "{}", .merges = "[]"}.text(), "the vocabulary is empty"},
      {JsonParts{.vocab = "[]"}.text(), "got array, expected object"},
      {JsonParts{.vocab = R"({"a":-1})"}.text(), "expected integer"},
      {JsonParts{.vocab = R"({"a":1.5})"}.text(), "got number, expected integer"},
      {JsonParts{.vocab = R"({"a":"0"})"}.text(), "got string, expected integer"},
      {JsonParts{.vocab = R"({"a":1048576})"}.text(), "got 1048576, at most 1048575 allowed"},
      {JsonParts{.vocab = R"({"a":0,"a":1})"}.text(), "duplicate key"},
      {JsonParts{.vocab = R"({"a":0,"b":0})"}.text(), "token b has id 0, which another token has"},
      {JsonParts{.merges = "{}"}.text(), "got object, expected array"},
      {JsonParts{.merges = "[1]"}.text(), "got integer, expected string"},
      {JsonParts{.merges = R"(["ab"])"}.text(), "two tokens with one space between, got ab"},
      {JsonParts{.merges = R"(["a b c"])"}.text(), "two tokens with one space between, got a b c"},
      {JsonParts{.merges = R"([["a"]])"}.text(), "a merge of 1 parts, expected 2"},
      {JsonParts{.merges = R"([["a","b","c"]])"}.text(), "a merge of 3 parts, expected 2"},
      {JsonParts{.merges = R"([["a",1]])"}.text(), "got integer, expected string"},
      {JsonParts{.merges = R"(["a x"])"}.text(), "merge 0 needs token x, which is not in the vocabulary"},
      {JsonParts{.merges = R"(["x a"])"}.text(), "merge 0 needs token x"},
      {JsonParts{.merges = R"(["a c"])"}.text(), "merge 0 needs token ac"},
      {JsonParts{.merges = R"([" a"])"}.text(), "merge 0 needs token "},
      {JsonParts{.options = R"("dropout":0.1,)"}.text(), "dropout is not supported"},
      {JsonParts{.options = R"("continuing_subword_prefix":"##",)"}.text(), "continuing_subword_prefix is not supported"},
      {JsonParts{.options = R"("end_of_word_suffix":"</w>",)"}.text(), "end_of_word_suffix is not supported"},
      {JsonParts{.options = R"("unk_token":"<unk>",)"}.text(), "unk_token <unk> is not in the vocabulary"},
      {JsonParts{.options = R"("unk_token":3,)"}.text(), "got integer, expected string"},
      {JsonParts{.options = R"("byte_fallback":1,)"}.text(), "got integer, expected true or false"},
      {JsonParts{.options = R"("fuse_unk":"no",)"}.text(), "got string, expected true or false"},
      {JsonParts{.options = R"("ignore_merges":{},)"}.text(), "got object, expected true or false"},
  };
}

std::vector<Case> added_cases() {
  return {
      {JsonParts{.added = "{}"}.text(), "got object, expected array"},
      {JsonParts{.added = "[1]"}.text(), "got integer, expected object"},
      {JsonParts{.added = added(R"("content":"x")")}.text(), "key 'id' is missing"},
      {JsonParts{.added = added(R"("id":9)")}.text(), "key 'content' is missing"},
      {JsonParts{.added = added(R"("id":9,"content":"")")}.text(), "an added token without content"},
      {JsonParts{.added = added(R"("id":9,"content":"x","special":1)")}.text(), "added_tokens[0].special"},
      {JsonParts{.added = added(R"("id":2000000,"content":"x")")}.text(), "got 2000000, at most 1048575 allowed"},
      {JsonParts{.added = added(R"("id":1,"content":"a")")}.text(), "added token a has id 1, the model has 0"},
      {JsonParts{.added = added(R"("id":1,"content":"x")")}.text(), "added token x has id 1, which another token has"},
      {JsonParts{.added = R"([{"id":9,"content":"x"},{"id":9,"content":"y"}])"}.text(), "added token y has id 9, which another token has"},
      {JsonParts{.added = R"([{"id":9,"content":"x"},{"id":9,"content":"x"}])"}.text(), "added token x stands twice"},
  };
}

std::vector<Case> step_cases() {
  const auto normalizer = [](const std::string& json) { return JsonParts{.normalizer = json}.text(); };
  const auto cutter = [](const std::string& json) { return JsonParts{.pre_tokenizer = json}.text(); };
  const auto decoder = [](const std::string& json) { return JsonParts{.decoder = json}.text(); };
  return {
      {normalizer("[]"), "got array, expected object"},
      {normalizer("{}"), "key 'type' is missing"},
      {normalizer(R"({"type":"NFC"})"), "normalizer 'NFC' is not supported"},
      {normalizer(steps("Sequence", "normalizers", R"({"type":"Lowercase"})")), "normalizer.normalizers[0].type"},
      {normalizer(R"({"type":"Sequence"})"), "key 'normalizers' is missing"},
      {normalizer(R"({"type":"Prepend"})"), "key 'prepend' is missing"},
      {normalizer(R"({"type":"Replace","pattern":{"Regex":"a"},"content":"b"})"), "Replace with a regular expression"},
      {normalizer(R"({"type":"Replace","pattern":{"String":""},"content":"b"})"), "empty pattern"},
      {normalizer(R"({"type":"Replace","pattern":{"String":"a"}})"), "key 'content' is missing"},
      {cutter(R"({"type":"Whitespace"})"), "pre_tokenizer 'Whitespace' is not supported"},
      {cutter(R"({"type":"BertPreTokenizer"})"), "pre_tokenizer 'BertPreTokenizer' is not supported"},
      {cutter(R"({"type":"Split","pattern":{"Regex":"a"}})"), "key 'behavior' is missing"},
      {cutter(R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"MergedWithNext"})"), "Split with behavior 'MergedWithNext'"},
      {cutter(R"({"type":"Split","pattern":{},"behavior":"Isolated"})"), "key 'Regex' is missing"},
      {cutter(R"({"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"})"), "does not compile"},
      {cutter(R"({"type":"Split","pattern":{"Regex":"\\b"},"behavior":"Isolated"})"), "uses \\b"},
      {cutter(R"({"type":"Split","pattern":{"String":""},"behavior":"Isolated"})"), "empty pattern"},
      {cutter(R"({"type":"ByteLevel","use_regex":0})"), "pre_tokenizer.use_regex"},
      {cutter(R"({"type":"Metaspace","replacement":"ab"})"), "replacement must be one character"},
      {cutter(R"({"type":"Metaspace","replacement":""})"), "replacement must be one character"},
      {cutter(R"({"type":"Metaspace","prepend_scheme":"last"})"), "prepend_scheme 'last' is not one of always, first, never"},
      {cutter(R"({"type":"Metaspace","prepend_scheme":"always","add_prefix_space":false})"), "contradicts add_prefix_space false"},
      {decoder(R"({"type":"WordPiece"})"), "decoder 'WordPiece' is not supported"},
      {decoder(R"({"type":"CTC"})"), "decoder 'CTC' is not supported"},
      {decoder(R"({"type":"Strip","content":"ab","start":1,"stop":0})"), "content must be one character"},
      {decoder(R"({"type":"Strip","content":"a","start":-1,"stop":0})"), "expected integer"},
      {decoder(R"({"type":"Strip","content":"a","start":1})"), "key 'stop' is missing"},
      {decoder(steps("Sequence", "decoders", "3")), "decoder.decoders[0]"},
  };
}

std::vector<Case> template_cases() {
  const auto around = [](const std::string& json) { return JsonParts{.post_processor = json}.text(); };
  return {
      {around(R"({"type":"BertProcessing"})"), "post_processor 'BertProcessing' is not supported"},
      {around(R"({"type":"RobertaProcessing"})"), "post_processor 'RobertaProcessing' is not supported"},
      {around(single("[]")), "a template must hold sequence A once"},
      {around(single("[" + kSequenceA + "," + kSequenceA + "]")), "a template must hold sequence A once"},
      {around(single(R"([{"Sequence":{"id":"B","type_id":0}}])")), "a template must hold sequence A once"},
      {around(single(R"(["$A"])")), "got string, expected object"},
      {around(single("[" + kSpecialB + "," + kSequenceA + "]")), "special token 'B' is not among special_tokens"},
      {around(single("[" + kSpecialB + "," + kSequenceA + "]", R"({"B":{"ids":[1,2]}})")), "a special token of 2 ids, expected one"},
      {around(single("[" + kSpecialB + "," + kSpecialB + "," + kSequenceA + "]", R"({"B":{"ids":[1]}})")), "more than one special token"},
      {around(single("[" + kSpecialB + "," + kSequenceA + "]", R"({"B":{"ids":[77]}})")),
       "post_processor adds token 77, which does not exist"},
      {around(steps("Sequence", "processors",
                    single("[" + kSpecialB + "," + kSequenceA + "]", R"({"B":{"ids":[1]}})") + "," + single("[" + kSequenceA + "]"))),
       "more than one TemplateProcessing"},
  };
}

TEST(Malformed, EveryBrokenRuleIsNamed) {
  std::vector<Case> cases = model_cases();
  for (const auto& more : {added_cases(), step_cases(), template_cases()}) cases.insert(cases.end(), more.begin(), more.end());
  for (const Case& c : cases) {
    const auto error = thrown_by([&] { load_text(c.json); });
    ASSERT_TRUE(error) << "accepted: " << c.json;
    EXPECT_EQ(error->kind, ErrorKind::data) << c.json;
    EXPECT_NE(std::string(error->what()).find(c.message), std::string::npos) << c.message << " / got: " << error->what();
    EXPECT_NE(error->where.find("tokenizer.json"), std::string::npos) << error->where;
  }
  EXPECT_GE(cases.size(), 88u);
}

TEST(Malformed, PlacesHaveLineAndColumn) {
  TempDir dir;
  dir.write("tokenizer.json",
            "{\n \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []},\n \"normalizer\": {\"type\": \"NFKC\"}\n}");
  EXPECT_EQ(thrown_by([&] { load_tokenizer(dir.path()); })->where, (dir / "tokenizer.json").string() + ":3:25: normalizer.type");
}

TEST(Malformed, ConfigsAreCheckedToo) {
  const std::string json = JsonParts{}.text();
  const Case table[] = {
      {"[]", "got array, expected object"},
      {R"({"add_bos_token":"yes"})", "add_bos_token"},
      {R"({"legacy":1})", "legacy"},
      {R"({"bos_token":3})", "bos_token"},
      {R"({"bos_token":{}})", "key 'content' is missing"},
      {R"({"eos_token":"</s>"})", "eos_token </s> is not in the vocabulary"},
      {"{", "not valid JSON"},
  };
  for (const Case& c : table) {
    const auto error = thrown_by([&] { load_text(json, c.json); });
    ASSERT_TRUE(error) << c.json;
    EXPECT_EQ(error->kind, ErrorKind::data);
    EXPECT_NE(std::string(error->what()).find(c.message), std::string::npos) << error->what();
    EXPECT_NE(error->where.find("tokenizer_config.json"), std::string::npos) << error->where;
  }
}

TEST(Malformed, NoFlippedByteDoesMoreThanFail) {
  const std::string good =
      JsonParts{.added = added(R"("id":9,"content":"<s>","special":true,"lstrip":true)"),
                .normalizer = R"({"type":"Prepend","prepend":"a"})",
                .pre_tokenizer = R"({"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|[a-z]{1,3}"},"behavior":"Isolated"})"}
          .text();
  std::mt19937 random(17);
  size_t refused = 0;
  for (int i = 0; i < 500; ++i) {
    std::string bad = good;
    bad[random() % bad.size()] = static_cast<char>(32 + random() % 95);
    const auto error = thrown_by([&] { load_text(bad)->encode("abc ab\u00e9 <s>", {.parse_special = true}); });
    refused += error.has_value();
    if (error) EXPECT_EQ(error->kind, ErrorKind::data) << bad << error->what();
  }
  EXPECT_GT(refused, 250u);
}

}  // namespace
}  // namespace longlora
