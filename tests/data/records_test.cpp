// Records of text and jsonl files: what they are, and the exact place of what they may not be.
#include "data/records.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>

#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

std::vector<std::string> records_of(const fs::path& path, const RecordRules& rules, uint64_t* empty = nullptr) {
  const InputFile file(path);
  RecordScanner scanner(file, rules);
  std::vector<std::string> records;
  for (RecordRange range; scanner.next(range);) records.push_back(read_record(file, range, rules));
  if (empty) *empty = scanner.empty();
  return records;
}

using Strings = std::vector<std::string>;

TEST(Records, WholeFileIsVerbatim) {
  TempDir dir;
  const std::string text = "  a\r\n\n\xEF\xBB\xBF tail \n";
  EXPECT_EQ(records_of(dir.write("a", text), {}), Strings{text});
  EXPECT_EQ(records_of(dir.write("b", "\xEF\xBB\xBF" + text), {}), Strings{text});    // the mark at byte 0 is skipped
  uint64_t empty = 0;
  EXPECT_EQ(records_of(dir.write("c", ""), {}, &empty), Strings{});
  EXPECT_EQ(empty, 1u);
}

TEST(Records, BlankLinesDivide) {
  TempDir dir;
  const RecordRules rules{.kind = RecordKind::blank_line};
  const std::vector<std::pair<std::string, Strings>> cases = {
      {"", {}}, {"\n\n\n", {}}, {"a", {"a"}}, {"a\n", {"a"}}, {"a\n\nb", {"a", "b"}}, {"\n\na\nb\n\n\n\nc\n\n", {"a\nb", "c"}},
      {"a\r\nb\r\n\r\nc\r\n", {"a\r\nb", "c"}}, {" a \n \n\nb", {" a \n ", "b"}}, {"\xEF\xBB\xBF\n\na", {"a"}}};
  for (const auto& [text, expected] : cases) EXPECT_EQ(records_of(dir.write("x", text), rules), expected) << text;
}

TEST(Records, SeparatorLinesDivide) {
  TempDir dir;
  const RecordRules rules{.kind = RecordKind::separator, .separator = "<|end|>"};
  const std::vector<std::pair<std::string, Strings>> cases = {{"a\n<|end|>\nb\n", {"a", "b"}},
                                                              {"a\n\nb\n<|end|>\r\nc", {"a\n\nb", "c"}},
                                                              {"a <|end|>\n<|end|> \n<|end|>x", {"a <|end|>\n<|end|> \n<|end|>x"}},
                                                              {"<|end|>\n<|end|>\na", {"a"}},
                                                              {"<|end|>\n\n<|end|>\n", {}}};
  for (const auto& [text, expected] : cases) EXPECT_EQ(records_of(dir.write("x", text), rules), expected) << text;
  uint64_t empty = 0;
  records_of(dir.write("x", "<|end|>\na\n<|end|>\n<|end|>\n"), rules, &empty);
  EXPECT_EQ(empty, 2u);
}

TEST(Records, JsonLinesGiveTheField) {
  TempDir dir;
  const std::string text =
      "{\"text\":\"one\"}\n\n  \t\r\n{\"id\": -1.5e+3, \"meta\": {\"a\":[1,true,null,{}]}, \"text\" : "
      "\"t\\u00e9\\n\\\"\\ud83e\\udd99\\/\"}\r\n{\"text\":\"last\"}";
  EXPECT_EQ(records_of(dir.write("x", text), {.kind = RecordKind::json_line}), (Strings{"one", "t\xC3\xA9\n\"\xF0\x9F\xA6\x99/", "last"}));
  EXPECT_EQ(records_of(dir.write("x", "{\"body\":\"b\",\"text\":3}"), {.kind = RecordKind::json_line, .field = "body"}), Strings{"b"});
}

TEST(Records, LinesAndRecordsLongerThanABlockAreWhole) {
  TempDir dir;
  const std::string big(700'000, 'x');
  EXPECT_EQ(records_of(dir.write("x", "{\"text\":\"" + big + "\"}\n{\"text\":\"y\"}"), {.kind = RecordKind::json_line}),
            (Strings{big, "y"}));
  EXPECT_EQ(records_of(dir.write("x", big + "\n" + big + "\n\n" + "z"), {.kind = RecordKind::blank_line}),
            (Strings{big + "\n" + big, "z"}));
}

struct Bad { std::string content, where, message; };

/// Every file fails with ErrorKind::data at "x:LINE:BYTE".
void expect_bad(const std::vector<Bad>& cases, const RecordRules& rules) {
  TempDir dir;
  for (const Bad& c : cases) {
    const fs::path path = dir.write("x", c.content);
    const auto error = thrown_by([&] { records_of(path, rules); });
    ASSERT_TRUE(error) << c.message << " in " << escape(c.content);
    EXPECT_EQ(error->kind, ErrorKind::data) << error->what();
    EXPECT_EQ(error->where, path.string() + ":" + c.where) << error->what() << " in " << escape(c.content);
    EXPECT_NE(error->what_happened.find(c.message), std::string::npos) << error->what();
  }
}

const std::vector<std::string> kInvalidUtf8 = {"\x80",
                                               "\xBF",
                                               "\xC0\x80",
                                               "\xC1\xBF",
                                               "\xE0\x80\x80",
                                               "\xE0\x9F\xBF",
                                               "\xED\xA0\x80",
                                               "\xED\xBF\xBF",
                                               "\xF0\x80\x80\x80",
                                               "\xF0\x8F\xBF\xBF",
                                               "\xF4\x90\x80\x80",
                                               "\xF5\x80\x80\x80",
                                               "\xFE",
                                               "\xFF",
                                               "\xC2",
                                               "\xE2\x82",
                                               "\xF0\x9F\xA6",
                                               "\xC2 ",
                                               "\xE2\x28\xA1",
                                               "\xF0\x28\x8C\xBC",
                                               "\xFC\x80\x80\x80\x80\x80"};

TEST(MalformedText, InvalidUtf8AndNulAreFoundAtTheirByte) {
  std::vector<Bad> cases;
  for (const std::string& bytes : kInvalidUtf8) {
    cases.push_back({bytes, "1:1", "is not valid UTF-8"});
    cases.push_back({"ab\ncd\xC3\xA9" + bytes, "2:5", "is not valid UTF-8"});
    cases.push_back({"\xEF\xBB\xBF" "x\r\n" + bytes + "\n", "2:1", "is not valid UTF-8"});
  }
  cases.push_back({std::string("a\0b", 3), "1:2", "NUL byte"});
  cases.push_back({std::string("\n\n\0", 3), "3:1", "NUL byte"});
  EXPECT_EQ(cases.size(), 65u);
  expect_bad(cases, {});
}

TEST(MalformedText, PlacesCountLinesOfTheFileNotOfTheRecord) {
  expect_bad({{"a\n\nb\nc\xFF", "4:2", "byte 0xff is not valid UTF-8"}}, {.kind = RecordKind::blank_line});
  expect_bad({{"a\n--\n\nb\xFF", "4:2", "not valid UTF-8"}}, {.kind = RecordKind::separator, .separator = "--"});
}

TEST(MalformedJson, EveryFaultIsFoundAtItsByte) {
  std::vector<Bad> cases = {
      {"x", "1:1", "expected an object ('{'), got 'x'"},
      {"[]", "1:1", "expected an object ('{'), got '['"},
      {"\"text\"", "1:1", "expected an object"},
      {"{", "1:2", "expected a key in quotes, got the end of the line"},
      {"{\"text\"", "1:8", "expected ':', got the end of the line"},
      {"{\"text\" \"a\"}", "1:9", "expected ':', got '\"'"},
      {"{\"text\":", "1:9", "expected a string in field 'text', got no value"},
      {"{\"text\":\"a\"", "1:12", "expected ',' or '}', got the end of the line"},
      {"{\"text\":\"a\",}", "1:13", "expected a key in quotes, got '}'"},
      {"{text:1}", "1:2", "expected a key in quotes, got 't'"},
      {"{'text':1}", "1:2", "expected a key in quotes, got '''"},
      {"{\"text\":\"a\"} x", "1:14", "expected the end of the line after the object, got 'x'"},
      {"{\"text\":\"a\"}{}", "1:13", "expected the end of the line after the object, got '{'"},
      {"{\"text\":\"a}", "1:12", "the string does not end before the line does"},
      {"{\"text\":\"a\\\"}", "1:14", "the string does not end before the line does"},
      {"{\"text\":\"a\tb\"}", "1:11", "control character '\\x09' must be escaped"},
      {"{\"text\":\"\\x\"}", "1:10", "unknown escape sequence"},
      {"{\"text\":\"\\", "1:10", "unknown escape sequence"},
      {"{\"text\":\"\\u12G4\"}", "1:10", "\\u needs four hexadecimal digits"},
      {"{\"text\":\"\\u12", "1:10", "\\u needs four hexadecimal digits"},
      {"{\"text\":\"a\\u0000\"}", "1:11", "NUL character"},
      {"{\"text\":\"\\ud800\"}", "1:10", "lone surrogate escape"},
      {"{\"text\":\"\\ud800x\"}", "1:10", "lone surrogate escape"},
      {"{\"text\":\"\\udc00\"}", "1:10", "lone surrogate escape"},
      {"{\"text\":\"\\ud800\\ud800\"}", "1:10", "lone surrogate escape"},
      {"{\"text\":\"\\ud800\\u0041\"}", "1:10", "lone surrogate escape"},
      {"{\"text\":\"\\ud800\\n\"}", "1:10", "lone surrogate escape"},
      {"{\"other\":\"\\ud800\",\"text\":\"a\"}", "1:11", "lone surrogate escape"},
      {"{\"text\":1}", "1:9", "expected a string in field 'text', got a number"},
      {"{\"text\":-1}", "1:9", "expected a string in field 'text', got a number"},
      {"{\"text\":null}", "1:9", "expected a string in field 'text', got null"},
      {"{\"text\":true}", "1:9", "expected a string in field 'text', got true or false"},
      {"{\"text\":[\"a\"]}", "1:9", "expected a string in field 'text', got an array"},
      {"{\"text\":{}}", "1:9", "expected a string in field 'text', got an object"},
      {"{}", "1:1", "no field 'text'"},
      {"{\"Text\":\"a\"}", "1:1", "no field 'text'"},
      {"{\"a\":{\"text\":\"inner\"}}", "1:1", "no field 'text'"},
      {"{\"text\":\"a\",\"text\":\"b\"}", "1:13", "duplicate key 'text'"},
      {"{\"text\":\"a\",\"\\u0074ext\":\"b\"}", "1:13", "duplicate key 'text'"},
      {"{\"a\":1,\"a\":2,\"text\":\"b\"}", "1:8", "duplicate key 'a'"},
      {"{\"a\":{\"b\":1,\"b\":1},\"text\":\"b\"}", "1:13", "duplicate key 'b'"},
      {"{\"a\":01,\"text\":\"b\"}", "1:7", "expected ',' or '}', got '1'"},
      {"{\"a\":1.,\"text\":\"b\"}", "1:8", "expected a digit, got ','"},
      {"{\"a\":.5,\"text\":\"b\"}", "1:6", "expected a value, got '.'"},
      {"{\"a\":+1,\"text\":\"b\"}", "1:6", "expected a value, got '+'"},
      {"{\"a\":-,\"text\":\"b\"}", "1:7", "expected a digit, got ','"},
      {"{\"a\":1e,\"text\":\"b\"}", "1:8", "expected a digit, got ','"},
      {"{\"a\":1e+,\"text\":\"b\"}", "1:9", "expected a digit, got ','"},
      {"{\"a\":NaN,\"text\":\"b\"}", "1:6", "expected a value, got 'N'"},
      {"{\"a\":Infinity,\"text\":\"b\"}", "1:6", "expected a value, got 'I'"},
      {"{\"a\":nul,\"text\":\"b\"}", "1:6", "expected a value, got 'n'"},
      {"{\"a\":True,\"text\":\"b\"}", "1:6", "expected a value, got 'T'"},
      {"{\"a\":tru", "1:6", "expected a value, got 't'"},
      {"{\"a\":[1,],\"text\":\"b\"}", "1:9", "expected a value, got ']'"},
      {"{\"a\":[1 2],\"text\":\"b\"}", "1:9", "expected ',' or ']', got '2'"},
      {"{\"a\":[,\"text\":\"b\"}", "1:7", "expected a value, got ','"},
      {"{\"a\":[1", "1:8", "expected ',' or ']', got the end of the line"},
      {"{\"a\":}", "1:6", "expected a value, got '}'"},
      {"{\"a\":1,,\"text\":\"b\"}", "1:8", "expected a key in quotes, got ','"},
      {"{\"text\":\"a\"} // note", "1:14", "expected the end of the line"},
      {"// note", "1:1", "expected an object"},
  };
  const auto nested = [](int depth) { return "{\"text\":\"a\",\"d\":" + std::string(depth, '[') + std::string(depth, ']') + "}"; };
  cases.push_back({nested(16), "1:32", "nested deeper than 16 levels"});
  cases.push_back({nested(100'000), "1:32", "nested deeper than 16 levels"});
  for (const std::string& bytes : kInvalidUtf8)
    cases.push_back({"{\"text\":\"a\"}\n{\"text\":\"ab" + bytes + "\"}", "2:12", "is not valid UTF-8"});
  cases.push_back({std::string("{\"text\":\"a\0\"}", 13), "1:11", "NUL byte"});
  // The same faults behind good lines, blank lines and a byte order mark: only the line number moves.
  const size_t single = cases.size();
  for (size_t i = 0; i < 61; ++i)
    cases.push_back({"\xEF\xBB\xBF{\"text\":\"a\"}\r\n\n" + cases[i].content, "3:" + cases[i].where.substr(2), cases[i].message});
  EXPECT_EQ(single, 85u);
  EXPECT_EQ(cases.size(), 146u);
  expect_bad(cases, {.kind = RecordKind::json_line});
}

TEST(MalformedJson, DepthOf16IsAllowed) {
  TempDir dir;
  const std::string line = "{\"text\":\"a\",\"d\":" + std::string(15, '[') + std::string(15, ']') + "}";
  EXPECT_EQ(records_of(dir.write("x", line), {.kind = RecordKind::json_line}), Strings{"a"});
}

TEST(MalformedJson, FineTuningRecordsAreNamedAsNotInThisVersion) {
  TempDir dir;
  for (const char* line : {R"({"instruction":"a","output":"b"})", R"({"conversations":[]})", R"({"messages":[]})"}) {
    const fs::path path = dir.write("x", line);
    const auto error = thrown_by([&] { records_of(path, {.kind = RecordKind::json_line}); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::config);
    EXPECT_NE(error->what_happened.find("not in this version"), std::string::npos);
  }
}

TEST(MalformedJson, TheOneBadLineOfManyIsNamed) {
  TempDir dir;
  constexpr int kLines = 20'000;
  for (const int bad : {0, 1, kLines / 2, kLines - 2, kLines - 1}) {
    std::string text;
    for (int i = 0; i < kLines; ++i) text += i == bad ? "{\"text\":7}\n" : "{\"text\":\"good line\"}\n";
    const fs::path path = dir.write("x", text);
    EXPECT_EQ(error_of([&] { records_of(path, {.kind = RecordKind::json_line}); }),
              "bad record: expected a string in field 'text', got a number (" + path.string() + ":" + std::to_string(bad + 1) +
                  ":9); correct the line");
  }
}

TEST(RecordLimit, TooLongRecordsAreNamedAtTheirLine) {
  const std::string big(101, 'x');
  TempDir dir;
  const auto error = [&](const std::string& content, RecordKind kind) {
    const fs::path path = dir.write("x", content);
    const RecordRules rules{.kind = kind, .separator = "--", .max_record_bytes = 100};
    return error_of([&] { records_of(path, rules); });
  };
  const std::string file = (dir / "x").string();
  const auto expected = [&](int line) {
    return "bad record: longer than data.max_record_bytes = 100 (" + file + ":" + std::to_string(line) +
           ":1); cut the record into parts, or raise data.max_record_bytes";
  };
  EXPECT_EQ(error(big, RecordKind::whole_file), expected(1));
  EXPECT_EQ(error("{\"text\":\"a\"}\n" + big, RecordKind::json_line), expected(2));
  EXPECT_EQ(error("a\n\n" + big, RecordKind::blank_line), expected(3));
  EXPECT_EQ(error("a\n--\nb\n" + big, RecordKind::separator), expected(3));
  EXPECT_EQ(error(std::string(100, 'x'), RecordKind::whole_file), "");
  EXPECT_EQ(error(std::string(50, 'x') + "\n" + std::string(49, 'x') + "\n\n", RecordKind::blank_line), "");
}

TEST(RecordLimit, SparseLineOf4GiBIsRefusedWithBoundedMemory) {
  TempDir dir;
  const fs::path path = dir.write("huge", "{\"text\":\"a\"}\n");
  std::error_code error;
  fs::resize_file(path, uint64_t{4} << 30, error);
  if (error) GTEST_SKIP() << "no sparse files here: " << error.message();
  struct rusage before{}, after{};
  getrusage(RUSAGE_SELF, &before);
  EXPECT_NE(error_of([&] { records_of(path, {.kind = RecordKind::json_line}); }).find("huge:2:1"), std::string::npos);
  getrusage(RUSAGE_SELF, &after);
  EXPECT_LT(after.ru_maxrss - before.ru_maxrss, 8 * 1024) << "KiB: one block is enough to find the limit";
}

}  // namespace
}  // namespace longlora
