#include <gtest/gtest.h>

#include "longlora/core/files.h"
#include "longlora/formats/weights.h"
#include "support/temp_dir.h"

namespace longlora {
namespace {

TEST(Safetensors, HeaderLengthThatLooksLikePickleIsRead) {
  const TempDir dir;
  int looked_like_pickle = 0;
  for (size_t length = 1; length < 256; length += 8) {            // header lengths over a whole period of the first byte
    const fs::path file = dir.path() / (std::to_string(length) + ".safetensors");
    SafetensorsWriter writer(file, {{std::string(length, 'n'), DType::f32, {1}}});
    const float value = 1;
    writer.write(0, std::as_bytes(std::span(&value, 1)));
    writer.finish();
    looked_like_pickle += static_cast<unsigned char>(read_file(file, 1 << 20)[0]) == 0x80;
    EXPECT_EQ(open_safetensors(file)->tensors().size(), 1u);
  }
  EXPECT_GT(looked_like_pickle, 0);
}

}  // namespace
}  // namespace longlora
