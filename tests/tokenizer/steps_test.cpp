#include <gtest/gtest.h>

#include "support/error_of.h"
#include "tokenizer/json_steps.h"

namespace longlora {
namespace {

using Texts = std::vector<std::string>;

/// Runs `read` on a JSON text.
template <class F>
auto with_json(const std::string& json, F&& read) {
  const JsonValue tree = parse_json(json, "t.json");
  return read(tree.is_null() ? std::nullopt : std::optional(JsonPlace{&tree, "t.json", "part"}));
}

Texts words(const std::string& json, const std::string& text, bool starts_document = true) {
  const Words cut = pre_tokenize(with_json(json, read_pre_tokenizer), text, starts_document);
  Texts out;
  for (const Words::Range& range : cut.ranges) out.emplace_back(cut.word(range));
  return out;
}
std::string normal(const std::string& json, const std::string& text) { return normalize(with_json(json, read_normalizer), text); }
std::string decoded(const std::string& json, const Texts& texts) { return run_decoders(with_json(json, read_decoder), texts); }

TEST(Normalizer, PrependsAndReplaces) {
  EXPECT_EQ(normal("null", "a b"), "a b");
  const std::string llama =
      R"({"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]})";
  EXPECT_EQ(normal(llama, " a b"), "▁▁a▁b");
  EXPECT_EQ(normal(llama, ""), "");
}

TEST(PreTokenizer, SplitsInFourWays) {
  const auto split = [](const char* pattern, const char* behavior, const char* invert) {
    return std::string(R"({"type":"Split","pattern":)") + pattern + R"(,"behavior":")" + behavior + R"(","invert":)" + invert + "}";
  };
  EXPECT_EQ(words(split(R"({"Regex":"\\d+"})", "Isolated", "false"), "a12b3"), (Texts{"a", "12", "b", "3"}));
  EXPECT_EQ(words(split(R"({"Regex":"\\d+"})", "Removed", "false"), "a12b3"), (Texts{"a", "b"}));
  EXPECT_EQ(words(split(R"({"Regex":"\\d+"})", "Removed", "true"), "a12b3"), (Texts{"12", "3"}));
  EXPECT_EQ(words(split(R"({"String":"."})", "Isolated", "false"), "a..b"), (Texts{"a", ".", ".", "b"}));
  EXPECT_EQ(words(split(R"({"String":"."})", "Removed", "false"), ".a."), (Texts{"a"}));
  EXPECT_EQ(words(split(R"({"String":"."})", "Isolated", "false"), ""), Texts{});
}

TEST(PreTokenizer, DigitsAloneOrTogether) {
  EXPECT_EQ(words(R"({"type":"Digits","individual_digits":true})", "a12\u0664\u00bd"), (Texts{"a", "1", "2", "\u0664", "\u00bd"}));
  EXPECT_EQ(words(R"({"type":"Digits","individual_digits":false})", "a12\u0664b"), (Texts{"a", "12\u0664", "b"}));
}

TEST(PreTokenizer, ByteLevelIsGpt2) {
  EXPECT_EQ(words(R"({"type":"ByteLevel","add_prefix_space":false})", "It's 12  x\n\n"),
            (Texts{"It", "'s", "\u012012", "\u0120", "\u0120x", "\u010a\u010a"}));
  EXPECT_EQ(words(R"({"type":"ByteLevel"})", "a"), (Texts{"\u0120a"}));
  EXPECT_EQ(words(R"({"type":"ByteLevel"})", " a"), (Texts{"\u0120a"}));
  EXPECT_EQ(words(R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})", "a b\u00e9"), (Texts{"a\u0120b\u00c3\u00a9"}));
  EXPECT_EQ(words(R"({"type":"ByteLevel","add_prefix_space":false})", "x\u0085\u00a0 y"),   // U+0085 is white space
            (Texts{"x", "\u00c2\u0127\u00c2\u0142", "\u0120y"}));
}

TEST(PreTokenizer, MetaspaceSchemes) {
  const auto metaspace = [](const char* scheme, const char* split) {
    return std::string(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":")") + scheme + R"(","split":)" + split + "}";
  };
  EXPECT_EQ(words(metaspace("always", "true"), "a  b c"), (Texts{"▁a", "▁", "▁b", "▁c"}));
  EXPECT_EQ(words(metaspace("always", "true"), "a b "), (Texts{"▁a", "▁b", "▁"}));
  EXPECT_EQ(words(metaspace("always", "true"), " a"), (Texts{"▁a"}));
  EXPECT_EQ(words(metaspace("first", "false"), "a b"), (Texts{"▁a▁b"}));
  EXPECT_EQ(words(metaspace("first", "false"), "a b", false), (Texts{"a▁b"}));
  EXPECT_EQ(words(metaspace("never", "true"), "a b"), (Texts{"a", "▁b"}));
  EXPECT_EQ(words(R"({"type":"Metaspace","replacement":"_","add_prefix_space":true})", "a b"), (Texts{"_a", "_b"}));
}

TEST(PreTokenizer, SequencesRunInOrder) {
  EXPECT_EQ(
      words(
          R"({"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},{"type":"ByteLevel","add_prefix_space":false}]})",
          "ab 12 c"),
      (Texts{"ab", "\u0120", "1", "2", "\u0120c"}));
}

TEST(Decoder, EachStep) {
  EXPECT_EQ(decoded("null", {"a", "b"}), "a b");
  EXPECT_EQ(decoded(R"({"type":"ByteLevel"})", {"\u0120a", "\u00c3", "\u00a9", "\u00c3"}), " a\u00e9\uFFFD");
  EXPECT_EQ(decoded(R"({"type":"ByteLevel"})", {"<\u65e5>", "b"}), "<\u65e5>b");
  EXPECT_EQ(decoded(R"({"type":"ByteFallback"})", {"a", "<0xC3>", "<0xa9>", "b", "<0xFF>", "<0xFE>"}), "a\u00e9b\uFFFD\uFFFD");
  EXPECT_EQ(decoded(R"({"type":"ByteFallback"})", {"<0xG1>", "<0x1>"}), "<0xG1><0x1>");
  EXPECT_EQ(decoded(R"({"type":"Strip","content":"x","start":1,"stop":2})", {"xxaxxx", "b"}), "xaxb");
  EXPECT_EQ(decoded(R"({"type":"Replace","pattern":{"String":"▁"},"content":" "})", {"▁a▁", "b"}), " a b");
  EXPECT_EQ(decoded(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"always"})", {"▁a", "▁b"}), "a b");
  EXPECT_EQ(decoded(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"never"})", {"▁a", "▁b"}), " a b");
  EXPECT_EQ(decoded(R"({"type":"Sequence","decoders":[{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]})", {" ", " a"}),
            " a");
}

TEST(PostProcessor, TellsWhatStandsAroundTheText) {
  const AroundText both = with_json(
      R"({"type":"Sequence","processors":[{"type":"ByteLevel"},{"type":"TemplateProcessing",
          "single":[{"SpecialToken":{"id":"B","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"E","type_id":0}}],
          "special_tokens":{"B":{"id":"B","ids":[7],"tokens":["B"]},"E":{"id":"E","ids":[9],"tokens":["E"]}}}]})",
      read_post_processor);
  EXPECT_EQ(both.before, 7);
  EXPECT_EQ(both.after, 9);
  const AroundText none = with_json("null", read_post_processor);
  EXPECT_FALSE(none.before || none.after);
}

}  // namespace
}  // namespace longlora
