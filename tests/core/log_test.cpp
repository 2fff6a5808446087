#include "longlora/core/log.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "longlora/core/clock.h"
#include "longlora/core/text.h"

namespace longlora {
namespace {

template <class F>
std::string printed(const LogOptions& options, F&& body) {
  configure_log(options);
  testing::internal::CaptureStderr();
  body();
  const std::string text = testing::internal::GetCapturedStderr();
  configure_log({});
  return text;
}

TEST(Log, TextLinesCarryTheirLevelAndTheMinimumHolds) {
  const std::string text = printed({.minimum = LogLevel::info, .color = ColorMode::never}, [] {
    log_debug("hidden {}", 1);
    log_info("step {}", 2);
    log_notice("took {}", "sub\x1b[0m");
    log_warning("two\nlines");
  });
  EXPECT_EQ(text, "step 2\nnotice: took sub\\x1b[0m\nwarning: two\nwarning: lines\n");
}

TEST(Log, ColourOnlyWhenAskedFor) {
  const auto warn = [] { log_warning("x"); };
  EXPECT_EQ(printed({.color = ColorMode::never}, warn).find('\x1b'), std::string::npos);
  EXPECT_NE(printed({.color = ColorMode::always}, warn).find('\x1b'), std::string::npos);
  EXPECT_EQ(printed({.color = ColorMode::automatic}, warn).find('\x1b'), std::string::npos) << "not a terminal";
}

TEST(Log, JsonLinesAreJson) {
  const std::string text = printed({.minimum = LogLevel::debug, .format = LogFormat::json, .color = ColorMode::always}, [] {
    log_debug("a \"quote\" and \xff");
    log_warning("b");
  });
  const std::vector<std::string> lines = split(text, '\n');
  ASSERT_EQ(lines.size(), 3u);
  const nlohmann::json first = nlohmann::json::parse(lines[0]);
  EXPECT_EQ(first.at("level"), "debug");
  EXPECT_EQ(first.at("message"), "a \"quote\" and \xef\xbf\xbd");
  EXPECT_EQ(first.at("time").get<std::string>().size(), 20u);
  EXPECT_EQ(nlohmann::json::parse(lines[1]).at("level"), "warning");
}

TEST(Log, TheHookRunsBeforeEveryShownLine) {
  static int calls = 0;
  calls = 0;
  set_before_log([] { ++calls; });
  printed({}, [] { log_debug("hidden"), log_info("a"), log_info("b"); });
  set_before_log(nullptr);
  EXPECT_EQ(calls, 2);
}

TEST(Clock, MonotonicSecondsDoNotGoBackAndWallClockIsUtc) {
  const double before = monotonic_seconds();
  EXPECT_GE(monotonic_seconds(), before);
  const std::string now = wall_clock_iso8601();
  EXPECT_EQ(now.size(), 20u);
  EXPECT_EQ(now[10], 'T');
  EXPECT_EQ(now.back(), 'Z');
}

}  // namespace
}  // namespace longlora
