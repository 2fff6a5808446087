#include "longlora/dist/torchelastic.h"

#include <gtest/gtest.h>

#include "longlora/core/json.h"
#include "support/temp_dir.h"

namespace longlora::dist {
namespace {

TEST(Torchelastic, WritesWhatTorchrunReads) {
  const TempDir dir;
  const std::string message = "row 7 is \"bad\"\n(train.jsonl:7); correct it";
  write_torchelastic_error(dir / "error.json", message, 1'700'000'000);
  const JsonValue file = parse_json(dir.read("error.json"), "error.json");
  const JsonValue* outer = file.find("message");
  ASSERT_NE(outer, nullptr);
  EXPECT_EQ(*outer->find("message")->string(), message);
  const JsonValue* extra = outer->find("extraInfo");
  ASSERT_NE(extra, nullptr);
  EXPECT_EQ(*extra->find("py_callstack")->string(), "");
  EXPECT_EQ(*extra->find("timestamp")->string(), "1700000000");  // a string: torchrun calls int() on it
}

}  // namespace
}  // namespace longlora::dist
