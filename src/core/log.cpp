#include "longlora/core/log.h"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <atomic>
#include <cstdlib>
#include <memory>

#include "core/log_hook.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

std::atomic<void (*)()> before_log = nullptr;

spdlog::color_mode color_mode_of(ColorMode mode) {
  if (mode == ColorMode::always) return spdlog::color_mode::always;
  if (mode == ColorMode::never) return spdlog::color_mode::never;
  const char* const no_color = std::getenv("NO_COLOR");
  return no_color && *no_color ? spdlog::color_mode::never : spdlog::color_mode::automatic;
}

struct Log {
  LogOptions options;
  std::shared_ptr<spdlog::logger> logger;

  explicit Log(const LogOptions& chosen) : options(chosen) {
    const ColorMode mode = chosen.format == LogFormat::json ? ColorMode::never : chosen.color;
    logger = std::make_shared<spdlog::logger>("longlora", std::make_shared<spdlog::sinks::stderr_color_sink_mt>(color_mode_of(mode)));
    logger->set_pattern("%^%v%$");
    logger->set_level(spdlog::level::trace);
    logger->set_error_handler([](const std::string&) {});   // a closed stderr must never stop training
  }
};

std::shared_ptr<Log>& current_log() {
  static std::shared_ptr<Log> log = std::make_shared<Log>(LogOptions{});
  return log;
}

std::string_view name_of(LogLevel level) {
  static constexpr std::string_view kNames[] = {"debug", "info", "notice", "warning"};
  return kNames[static_cast<size_t>(level)];
}

/// spdlog's level only picks the colour here; `debug` and `info` lines stay plain.
spdlog::level::level_enum spdlog_level(LogLevel level) {
  if (level == LogLevel::warning) return spdlog::level::warn;
  return level == LogLevel::notice ? spdlog::level::info : spdlog::level::trace;
}

std::string text_line(LogLevel level, const std::string& line) {
  return level == LogLevel::info ? line : fmt::format("{}: {}", name_of(level), line);
}

std::string json_line(LogLevel level, const std::string& line) {
  return fmt::format(R"({{"time": "{}", "level": "{}", "message": {}}})", wall_clock_iso8601(), name_of(level), json_quote(line));
}

}  // namespace

void run_before_log_hook() noexcept {
  if (auto* const hook = before_log.load()) hook();
}

void set_before_log(void (*hook)()) { before_log = hook; }

void configure_log(const LogOptions& options) { current_log() = std::make_shared<Log>(options); }

void log_line(LogLevel level, std::string_view text) {
  const std::shared_ptr<Log> log = current_log();
  if (level < log->options.minimum) return;
  run_before_log_hook();
  for (const std::string& raw : split(text, '\n')) {
    const std::string line = log->options.format == LogFormat::json ? json_line(level, raw) : text_line(level, escape(raw, 4096));
    log->logger->log(spdlog_level(level), spdlog::string_view_t(line));
  }
}

}  // namespace longlora
