#pragma once
// Log lines on stderr through spdlog (text or JSON lines). Nothing else prints to stderr but the progress bar and the final line.

#include <fmt/format.h>

#include <string>
#include <string_view>

namespace longlora {

enum class LogLevel { debug, info, notice, warning };
enum class LogFormat { text, json };
enum class ColorMode { automatic, always, never };

struct LogOptions {
  LogLevel minimum = LogLevel::info;
  LogFormat format = LogFormat::text;
  ColorMode color = ColorMode::automatic;   // automatic: colour on a terminal unless NO_COLOR is set
};
void configure_log(const LogOptions&);
void log_line(LogLevel, std::string_view text);
/// Called before every log line: the progress bar clears itself here.
void set_before_log(void (*hook)());

template <class... A> void log_debug(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::debug, fmt::format(f, std::forward<A>(a)...)); }
template <class... A> void log_info(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::info, fmt::format(f, std::forward<A>(a)...)); }
template <class... A> void log_notice(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::notice, fmt::format(f, std::forward<A>(a)...)); }
template <class... A> void log_warning(fmt::format_string<A...> f, A&&... a) { log_line(LogLevel::warning, fmt::format(f, std::forward<A>(a)...)); }

}  // namespace longlora
