// docs/config.md is what the field table says. LONGLORA_UPDATE_DOCS=1 rewrites it.

#include <gtest/gtest.h>

#include <cstdlib>

#include "longlora/config/config_io.h"
#include "longlora/core/files.h"

namespace longlora {
namespace {

TEST(Docs, TheCommittedPageIsCurrent) {
  const fs::path page = fs::path(LONGLORA_SOURCE_DIR) / "docs/config.md";
  if (std::getenv("LONGLORA_UPDATE_DOCS")) write_file_atomic(page, config_markdown());
  EXPECT_TRUE(read_file(page, 1 << 20) == config_markdown())
      << "run LONGLORA_UPDATE_DOCS=1 test_config --gtest_filter='Docs.*' and commit the page";
}

}  // namespace
}  // namespace longlora
