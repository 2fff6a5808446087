// Every refusal rule of the header, violated at every tensor position: each file has its kind, its place and a part of its message.

#include <gtest/gtest.h>

#include <functional>

#include "formats/safetensors_builder.h"
#include "formats/safetensors_header.h"
#include "longlora/formats/weights.h"
#include "support/error_of.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

constexpr size_t kTensors = 12;

/// Twelve tensors of mixed types that tile the buffer; index = position in the file.
std::vector<RawTensor> good_tensors() {
  const std::pair<const char*, uint64_t> types[] = {{"F32", 4}, {"BF16", 2}, {"F64", 8}, {"U8", 1}};
  std::vector<RawTensor> tensors;
  uint64_t at = 0;
  for (size_t i = 0; i < kTensors; ++i) {
    const auto& [dtype, size] = types[i % 4];
    RawTensor t{"layer." + std::to_string(i) + ".weight", dtype, {i + 1, 2}, at, at + (i + 1) * 2 * size};
    at = t.end;
    tensors.push_back(std::move(t));
  }
  return tensors;
}

struct Rule {
  const char* name;
  std::function<std::string(std::vector<RawTensor>, size_t)> file;  // breaks the tensor at a position
  const char* message;                                              // part of the sentence
  bool names_tensor = true;
};

std::string packed(const std::vector<RawTensor>& t) {
  return file_of(header_of(t), std::string(t.empty() ? 0 : good_tensors().back().end, 'x'));
}

/// The file with the body of tensor `at` replaced.
std::string with_body(const std::vector<RawTensor>& tensors, size_t at, const std::string& body) {
  std::string json = "{";
  for (size_t i = 0; i < tensors.size(); ++i)
    json += (i ? "," : "") + (i == at ? "\"" + tensors[i].name + "\":" + body : tensors[i].entry());
  return file_of(json + "}", std::string(good_tensors().back().end, 'x'));
}

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  return text.replace(text.find(from), from.size(), to);
}

/// Rules that change one field of tensor i; the edit returns the broken tensor.
Rule field(const char* name, std::function<void(RawTensor&)> edit, const char* message) {
  return {name,
          [edit](std::vector<RawTensor> t, size_t i) {
            edit(t[i]);
            return packed(t);
          },
          message};
}
/// Rules that rewrite the text of tensor i's entry.
Rule body(const char* name, std::function<std::string(const std::string&)> edit, const char* message, bool names_tensor = false) {
  return {name, [edit](std::vector<RawTensor> t, size_t i) { return with_body(t, i, edit(t[i].entry_body())); }, message, names_tensor};
}

std::vector<Rule> rules() {
  using S = std::string;
  const auto insert = [](std::string_view member) { return [member](const S& b) { return "{" + S(member) + "," + b.substr(1); }; };
  const auto swap = [](std::string_view from, std::string_view to) { return [from, to](const S& b) { return replaced(b, from, to); }; };
  const auto offsets = [](std::string_view text) {
    return [text](const S& b) { return b.substr(0, b.find("\"data_offsets\":") + 15) + S(text) + "}"; };
  };
  const auto shape = [](std::string_view text) {
    return [text](const S& b) { return S(b).replace(b.find("["), b.find("]") - b.find("[") + 1, text); };
  };
  return {
      field(
          "dtype unknown", [](RawTensor& t) { t.dtype = "F8_E4M3"; },
          "expected dtype F64 F32 F16 BF16 I64 I32 I16 I8 U8 or BOOL, found 'F8_E4M3'"),
      field(
          "dtype lower case", [](RawTensor& t) { t.dtype = "f32"; }, "found 'f32'"),
      field(
          "dtype empty", [](RawTensor& t) { t.dtype = ""; }, "found ''"),
      field(
          "one element too many", [](RawTensor& t) { t.shape[0] += 1; }, "bytes for"),
      field(
          "one dimension more", [](RawTensor& t) { t.shape.push_back(2); }, "bytes for"),
      field(
          "shape of zero elements", [](RawTensor& t) { t.shape[1] = 0; }, "expected 0 bytes"),
      field(
          "product overflows",
          [](RawTensor& t) {
            t.shape = {uint64_t{1} << 62, 8};
          },
          "overflows 64 bits"),
      field(
          "end before begin", [](RawTensor& t) { std::swap(t.begin, t.end); }, "expected data_offsets inside the buffer"),
      field(
          "end beyond the buffer", [](RawTensor& t) { t.end += 1'000'000; }, "expected data_offsets inside the buffer"),
      field(
          "begin and end beyond",
          [](RawTensor& t) {
            t.begin += 1'000'000;
            t.end += 1'000'000;
          },
          "expected data_offsets inside the buffer"),
      field(
          "end at 2^63-1", [](RawTensor& t) { t.end = INT64_MAX; }, "expected data_offsets inside the buffer"),
      field(
          "end one short", [](RawTensor& t) { t.end -= 1; }, "bytes for"),
      field(
          "begin one late", [](RawTensor& t) { t.begin += 1; }, "bytes for"),
      field(
          "name of another", [](RawTensor& t) { t.name = t.name == "layer.0.weight" ? "layer.1.weight" : "layer.0.weight"; },
          "expected every name once, found it twice"),
      {"name too long",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name = S(513, 'n');
         return packed(t);
       },
       "a tensor name of at most 512 bytes", false},
      {"name with NUL",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += "\\u0000";
         return packed(t);
       },
       "a tensor name without control characters", false},
      {"name with a control character",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += "\\n";
         return packed(t);
       },
       "without control characters", false},
      {"name with DEL",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += "\x7f";
         return packed(t);
       },
       "without control characters", false},
      {"name with a raw new line",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += "\n";
         return packed(t);
       },
       "no control character inside a string", false},
      {"name with invalid UTF-8",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += "\xc3(";
         return packed(t);
       },
       "valid UTF-8", false},
      {"name with a lone surrogate",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += "\\ud800";
         return packed(t);
       },
       "a low surrogate", false},
      {"name with a raw NUL",
       [](std::vector<RawTensor> t, size_t i) {
         t[i].name += S(1, '\0');
         return packed(t);
       },
       "without NUL bytes", false},
      {"data moved by a hole",
       [](std::vector<RawTensor> t, size_t i) {
         for (size_t j = i; j < t.size(); ++j) t[j].begin += 4, t[j].end += 4;
         return file_of(header_of(t), S(t.back().end, 'x'));
       },
       "a hole"},
      {"overlap with the neighbour",
       [](std::vector<RawTensor> t, size_t i) {
         const size_t j = (i + 1) % t.size();
         const uint64_t size = t[j].end - t[j].begin;
         t[j].begin = t[i].begin;
         t[j].end = t[j].begin + size;
         return packed(t);
       },
       "", false},
      {"tensor removed",
       [](std::vector<RawTensor> t, size_t i) {
         t.erase(t.begin() + static_cast<std::ptrdiff_t>(i));
         return packed(t);
       },
       "", false},
      {"truncated inside the tensor", [](std::vector<RawTensor> t, size_t i) { return file_of(header_of(t), S(t[i].begin, 'x')); },
       "expected data_offsets inside the buffer"},
      body("no dtype", swap("\"dtype\":", "\"dtypo\":"), "only dtype, shape and data_offsets"),
      body("unknown key", insert("\"extra\":1"), "only dtype, shape and data_offsets"),
      body("dtype twice", insert("\"dtype\":\"F32\""), "key 'dtype' once"),
      body("shape twice", insert("\"shape\":[1]"), "key 'shape' once"),
      body("offsets twice", insert("\"data_offsets\":[0,1]"), "key 'data_offsets' once"),
      body(
          "only a dtype", [](const S&) { return S("{\"dtype\":\"F32\"}"); }, "'shape' is missing"),
      body(
          "no offsets", [](const S&) { return S("{\"dtype\":\"F32\",\"shape\":[]}"); }, "'data_offsets' is missing"),
      body(
          "dtype missing", [](const S&) { return S("{\"shape\":[],\"data_offsets\":[0,4]}"); }, "'dtype' is missing"),
      body(
          "empty entry", [](const S&) { return S("{}"); }, "'dtype' is missing"),
      body(
          "entry is null", [](const S&) { return S("null"); }, "expected '{'"),
      body(
          "entry is an array", [](const S&) { return S("[1]"); }, "expected '{'"),
      body(
          "entry is a number", [](const S&) { return S("5"); }, "expected '{'"),
      body(
          "dtype is a number", [](const S&) { return S("{\"dtype\":1,\"shape\":[],\"data_offsets\":[0,4]}"); }, "a dtype (a string)"),
      body("one offset", offsets("[0]"), "two data_offsets"),
      body("three offsets", offsets("[0,4,8]"), "two data_offsets"),
      body("no offset", offsets("[]"), "two data_offsets"),
      body("negative offset", offsets("[-1,4]"), "an offset (a plain decimal integer"),
      body("minus zero", offsets("[-0,4]"), "an offset (a plain decimal integer"),
      body("offset with fraction", offsets("[0.0,4]"), "an offset (a plain decimal integer"),
      body("offset with exponent", offsets("[0,4e0]"), "an offset (a plain decimal integer"),
      body("offset of 2^63", offsets("[0,9223372036854775808]"), "at most 2^63-1"),
      body("offset of 2^64", offsets("[0,18446744073709551616]"), "at most 2^63-1"),
      body("offset with leading zero", offsets("[00,4]"), "an offset (a plain decimal integer"),
      body("offset as a string", offsets("[\"0\",4]"), "an offset (a plain decimal integer"),
      body("offsets as an object", offsets("{}"), "expected '['"),
      body("trailing comma in offsets", offsets("[0,4,]"), "a value after ','"),
      body("negative dimension", shape("[-2]"), "a dimension (a plain decimal integer"),
      body("dimension with fraction", shape("[2.5]"), "a dimension (a plain decimal integer"),
      body("nested shape", shape("[[2]]"), "a dimension (a plain decimal integer"),
      body("nine dimensions", shape("[1,1,1,1,1,1,1,1,1]"), "at most 8 dimensions"),
      body("shape is null", shape("null"), "expected '['"),
      body("missing comma", swap(",\"shape\"", " \"shape\""), "',' or '}'"),
      body("missing colon", swap("\"shape\":", "\"shape\" "), "':'"),
      body("single quotes", swap("\"shape\"", "'shape'"), "a tensor key (a string)"),
      body("comment", swap("\"shape\"", "/*c*/\"shape\""), "a tensor key (a string)"),
      body("bad escape", swap("\"shape\"", "\"sh\\x61pe\""), "an escape sequence"),
      body("short escape", swap("\"shape\"", "\"sh\\u06pe\""), "four hexadecimal digits"),
  };
}

TEST(SafetensorsMalformed, GoodTensorsAreGood) {
  TempDir dir;
  EXPECT_EQ(open_safetensors(dir.write("x.safetensors", packed(good_tensors())))->tensors().size(), kTensors);
}

TEST(SafetensorsMalformed, EveryRuleAtEveryPosition) {
  size_t cases = 0;
  for (const Rule& rule : rules()) {
    for (size_t i = 0; i < kTensors; ++i) {
      SCOPED_TRACE(std::string(rule.name) + " at tensor " + std::to_string(i));
      const std::string file = rule.file(good_tensors(), i);
      uint64_t length = 0;
      for (int b = 7; b >= 0; --b) length = length << 8 | static_cast<uint8_t>(file[static_cast<size_t>(b)]);
      const auto error = thrown_by([&] { parse_safetensors_header(std::string_view(file).substr(8, length), file.size(), "M"); });
      ASSERT_TRUE(error) << "accepted";
      EXPECT_EQ(error->kind, ErrorKind::data);
      EXPECT_NE(error->what_happened.find(rule.message), std::string::npos) << error->what();
      EXPECT_EQ(error->where.substr(0, 3), "M: ");
      EXPECT_EQ(error->where.substr(0, rule.names_tensor ? 9 : 3), rule.names_tensor ? "M: tensor" : "M: ") << error->where;
      ++cases;
    }
  }
  EXPECT_GE(cases, 700u);
}

TEST(SafetensorsMalformed, EveryTruncationIsRefused) {
  TempDir dir;
  const std::string good = packed(good_tensors());
  size_t cases = 0;
  for (size_t size = 0; size < good.size(); size += 7, ++cases) {
    const auto file = dir.write("x.safetensors", good.substr(0, size));
    EXPECT_EQ(kind_of([&] { open_safetensors(file); }), ErrorKind::data) << size;
  }
  EXPECT_GE(cases, 150u);
}

TEST(SafetensorsMalformed, WholeFileRules) {
  TempDir dir;
  const std::string header = header_of(good_tensors()), payload(good_tensors().back().end, 'x');
  const std::string body = header + payload;
  struct Case {
    const char* name;
    std::string file;
    const char* message;
    const char* place;
  };
  const Case cases[] = {
      {"empty", "", "expected at least 10 bytes", ": byte 0"},
      {"nine bytes", std::string(9, '\0'), "expected at least 10 bytes", ": byte 0"},
      {"length 0", little_endian(0, 8) + body, "expected a header length of 2", ": byte 0"},
      {"length 1", little_endian(1, 8) + body, "expected a header length of 2", ": byte 0"},
      {"length beyond the file", little_endian(body.size() + 1, 8) + body, "expected a header length of 2", ": byte 0"},
      {"length 2^63", little_endian(uint64_t{1} << 63, 8) + body, "expected a header length of 2", ": byte 0"},
      {"length 2^64-1", little_endian(UINT64_MAX, 8) + body, "expected a header length of 2", ": byte 0"},
      {"header cut", little_endian(header.size() - 1, 8) + body, "',' or '}'", ": byte "},
      {"tail of one byte", file_of(header, payload + "x"), "that belong to no tensor", ": byte "},
      {"text after the object", file_of(header + " x", payload), "nothing but white space", ": byte "},
      {"second object", file_of(header + "{}", payload), "nothing but white space", ": byte "},
      {"NUL after the object", file_of(header + std::string(1, '\0'), payload), "without NUL bytes", ": byte "},
      {"array", file_of("[]", ""), "expected '{'", ": byte 8"},
      {"number", file_of("17", ""), "expected '{'", ": byte 8"},
      {"byte order mark", file_of("\xef\xbb\xbf{}", ""), "expected '{'", ": byte 8"},
      {"only white space", file_of("    ", ""), "expected '{', found the end", ": byte 12"},
      {"metadata twice", file_of("{\"__metadata__\":{},\"__metadata__\":{}}", ""), "__metadata__ once", ": byte "},
      {"metadata key twice", file_of("{\"__metadata__\":{\"a\":\"1\",\"a\":\"2\"}}", ""), "no metadata key twice", ": byte "},
      {"metadata number", file_of("{\"__metadata__\":{\"a\":1}}", ""), "a metadata value (a string)", ": byte 29"},
      {"metadata null", file_of("{\"__metadata__\":null}", ""), "expected '{'", ": byte "},
      {"metadata nested", file_of("{\"__metadata__\":{\"a\":{}}}", ""), "a metadata value (a string)", ": byte "},
      {"unterminated string", file_of("{\"abc", ""), "a closing quote", ": byte "},
      {"trailing comma", file_of("{\"__metadata__\":{},}", ""), "a value after ','", ": byte "},
      {"payload without tensors", file_of("{}", "x"), "found 1 bytes that belong to no tensor", ": byte 10"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    const auto path = dir.write("x.safetensors", c.file);
    const auto error = thrown_by([&] { open_safetensors(path); });
    ASSERT_TRUE(error);
    EXPECT_EQ(error->kind, ErrorKind::data);
    EXPECT_NE(error->what_happened.find(c.message), std::string::npos) << error->what();
    EXPECT_EQ(error->where.find(path.string() + c.place), 0u) << error->where;
  }
}

TEST(SafetensorsMalformed, TooManyTensorsStopEarly) {
  std::string json = "{";
  for (size_t i = 0; i <= kMaxTensors; ++i)
    json += (i ? ",\"t" : "\"t") + std::to_string(i) + "\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}";
  json += "}";
  const auto error = thrown_by([&] { parse_safetensors_header(json, 8 + json.size(), "M"); });
  ASSERT_TRUE(error);
  EXPECT_NE(error->what_happened.find("at most 65536 tensors"), std::string::npos);
}

TEST(SafetensorsMalformed, ManyProblemsAreListedTogetherUpToTwenty) {
  std::vector<RawTensor> tensors;
  for (uint64_t i = 0; i < 30; ++i) tensors.push_back({"t" + std::to_string(i), "F4", {1}, i, i + 1});
  const std::string header = header_of(tensors);
  const auto error = thrown_by([&] { parse_safetensors_header(header, 8 + header.size() + 30, "M"); });
  ASSERT_TRUE(error);
  EXPECT_EQ(error->details.size(), 20u);
  EXPECT_NE(error->what_happened.find("30 problems, the first: expected dtype"), std::string::npos);
  EXPECT_EQ(error->details[3], "M: tensor t3: expected dtype F64 F32 F16 BF16 I64 I32 I16 I8 U8 or BOOL, found 'F4'");
}

}  // namespace
}  // namespace longlora
