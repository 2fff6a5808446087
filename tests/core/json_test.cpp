// What JSON is accepted, with which tree and places; what is refused, where.

#include "longlora/core/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/error_of.h"

namespace longlora {
namespace {

std::string place_of(std::string_view text, const JsonLimits& limits = {}) {
  const auto error = thrown_by([&] { parse_json(text, "f.json", limits); });
  if (error) EXPECT_EQ(error->kind, ErrorKind::data);
  return error ? error->where : "accepted";
}

TEST(Json, RefusesWhatIsNotStrictJson) {
  const struct { std::string text; std::string where;
  } cases[] = {{"", "f.json:1:1"},
               {" ", "f.json:1:2"},
               {"{", "f.json:1:2"},
               {"[1,]", "f.json:1:4"},
               {"{\"a\":1,}", "f.json:1:8"},
               {"[1 2]", "f.json:1:4"},
               {"{a:1}", "f.json:1:2"},
               {"['a']", "f.json:1:2"},
               {"[01]", "f.json:1:3"},
               {"[.5]", "f.json:1:2"},
               {"[5.]", "f.json:1:2"},
               {"[+5]", "f.json:1:2"},
               {"[NaN]", "f.json:1:2"},
               {"[Infinity]", "f.json:1:2"},
               {"[1e999]", "f.json:1:2"},
               {"[-1e999]", "f.json:1:2"},
               {"// c\n1", "f.json:1:1"},
               {"[1]\n x", "f.json:2:2"},
               {"\"\\x\"", "f.json:1:3"},
               {"\"\\ud800\"", "f.json:1:8"},
               {"\"a\nb\"", "f.json:1:3"},
               {"\"a", "f.json:1:2"},
               {"\xef\xbb\xbf{}", "f.json:1:1"},
               {"{}\n{}", "f.json:2:1"},
               {"[\"\xff\"]", "f.json:1:3"},
               {"tru", "f.json:1:1"},
               {"nulL", "f.json:1:1"},
               {std::string("{}\0", 3), "f.json:1:3"},
               {std::string("[\0]", 3), "f.json:1:2"}};
  for (const auto& test : cases) EXPECT_EQ(place_of(test.text), test.where) << testing::PrintToString(test.text);
}

TEST(Json, DuplicateKeysAreRefusedInSmallAndLargeObjects) {
  EXPECT_EQ(error_of([] { parse_json("{\"a\": 1,\n \"b\": {}, \"a\": 2}", "f.json"); }),
            "duplicate key \"a\" (f.json:2:11); correct the JSON text");
  std::string large = "{";
  for (int i = 0; i < 500; ++i) large += "\"k" + std::to_string(i) + "\":0,";
  EXPECT_EQ(place_of(large + "\"z\":0}"), "accepted");
  for (const char* again : {"k0", "k15", "k16", "k17", "k499"})
    EXPECT_EQ(place_of(large + "\"" + again + "\":0}"), "f.json:1:" + std::to_string(large.size() + 1)) << again;
  EXPECT_EQ(place_of("{\"a\":{\"a\":{\"a\":1}},\"b\":{\"a\":1}}"), "accepted") << "the same key in different objects";
  EXPECT_EQ(place_of("{\"a\":1,\"\\u0061\":2}"), "f.json:1:8") << "escapes are resolved first";
}

TEST(Json, DepthValuesAndBytesAreBounded) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(place_of(nested(16)), "accepted");
  EXPECT_EQ(place_of(nested(17)), "f.json:1:17");
  EXPECT_EQ(place_of(std::string(500'000, '[')), "f.json:1:17");
  EXPECT_EQ(place_of("[1,2,3]", {.max_values = 4}), "accepted");
  EXPECT_EQ(place_of("[1,2,3,4]", {.max_values = 4}), "f.json:1:8");
  EXPECT_EQ(error_of([] { parse_json("[1234]", "f.json", {.max_bytes = 5}); }),
            "6 bytes of JSON, at most 5 allowed (f.json); give the right file");
}

TEST(Json, SizesComeOnlyFromPlainUnsignedIntegers) {
  const JsonValue array = parse_json("[0, 18446744073709551615, 18446744073709551616, -1, -0, 1.0, 1e3, \"5\", true]", "f");
  const auto& items = *array.array();
  EXPECT_EQ(items[0].unsigned_integer(), 0u);
  EXPECT_EQ(items[1].unsigned_integer(), UINT64_MAX);
  for (size_t i = 2; i < items.size(); ++i) EXPECT_FALSE(items[i].unsigned_integer().has_value()) << i;
  EXPECT_EQ(items[2].number(), 0x1p64);
  EXPECT_EQ(items[3].number(), -1.0);
  EXPECT_EQ(items[6].number(), 1000.0);
  EXPECT_FALSE(items[7].number().has_value());
  EXPECT_EQ(items[8].type_name(), "true/false");
  EXPECT_EQ(items[7].type_name(), "string");
  EXPECT_EQ(items[5].type_name(), "number");
  EXPECT_EQ(items[3].type_name(), "integer");
}

TEST(Json, ValuesAndKeysKnowTheirPlace) {
  const JsonValue root = parse_json("{\"a\": [1,\n  22 , {\"\xc3\xa4\": null, \"b\":\"x\"}],\n\t\"c\" :-3}", "f");
  const auto& array = *root.find("a")->array();
  const auto place = [](const JsonValue& v) { return std::pair(v.line, v.column); };
  const auto key_place = [](const JsonValue& v) { return std::pair(v.key_line, v.key_column); };
  using P = std::pair<uint32_t, uint32_t>;
  EXPECT_EQ(place(root), P(1, 1));
  EXPECT_EQ(place(*root.find("a")), P(1, 7));
  EXPECT_EQ(key_place(*root.find("a")), P(1, 2));
  EXPECT_EQ(place(array[0]), P(1, 8));
  EXPECT_EQ(place(array[1]), P(2, 3));
  EXPECT_EQ(place(array[2]), P(2, 8));
  EXPECT_EQ(key_place(*array[2].find("b")), P(2, 20)) << "columns count characters";
  EXPECT_EQ(place(*array[2].find("b")), P(2, 24));
  EXPECT_EQ(place(*root.find("c")), P(3, 7));
  EXPECT_EQ(key_place(*root.find("c")), P(3, 2));
  EXPECT_EQ(root.find("missing"), nullptr);
  EXPECT_EQ(array[0].find("a"), nullptr);
}

TEST(Json, TextRoundTripsCompactAndIndented) {
  const std::string text = R"({"z":[1,-2,3.5,1e-05,true,false,null,"a\"b\\\n\u0001"],"a":{},"e":[],"n":{"deep":{"x":1e+300}}})";
  const JsonValue value = parse_json(text, "f");
  EXPECT_EQ(dump_json(value), text);
  EXPECT_EQ(dump_json(parse_json(dump_json(value, 2), "f")), text);
  EXPECT_EQ(dump_json(parse_json("{\"a\":[1],\"b\":{}}", "f"), 2), "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}");
}

TEST(Json, NumbersAreShortAndExact) {
  EXPECT_EQ(json_number(4), "4.0");
  EXPECT_EQ(json_number(-0.0), "-0.0");
  EXPECT_EQ(json_number(0.1), "0.1");
  EXPECT_EQ(json_number(1e-5), "1e-05");
  EXPECT_EQ(json_number(std::nan("")), "\"nan\"");
  EXPECT_EQ(json_number(-INFINITY), "\"-inf\"");
  for (const double x : {1.0 / 3, 5e-324, std::numeric_limits<double>::max(), 123456789.0, 2e-5})
    EXPECT_EQ(parse_json(json_number(x), "f").number(), x);
}

TEST(Json, QuotingReplacesWhatIsNotText) {
  EXPECT_EQ(json_quote("a\xff" "b\xc3"), "\"a\xef\xbf\xbd" "b\xef\xbf\xbd\"");
  EXPECT_EQ(json_quote(std::string_view("\0\x7f", 2)), "\"\\u0000\\u007f\"");
  EXPECT_EQ(json_quote("\xf0\x9f\xa6\x99"), "\"\xf0\x9f\xa6\x99\"");
}

}  // namespace
}  // namespace longlora
