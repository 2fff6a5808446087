#include "apps/commands.h"

#include <ATen/Version.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>

#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/train/environment.h"
#include "longlora/train/stop_request.h"
#include "longlora/train/version.h"

#if __has_include("longlora_commit.h")
#include "longlora_commit.h"  // generated: LONGLORA_COMMIT
#else
#define LONGLORA_COMMIT "unknown"
#endif

namespace longlora::apps {
namespace {

void add_globals(Program& p) {
  GlobalOptions& g = p.globals;
  p.app.add_flag("--version", g.version, "print the version and stop (with --json: machine form)");
  p.app.add_flag("--json", g.json_version, "with --version");
  p.app.add_flag("-v,--verbose", g.verbosity, "more log lines");
  p.app.add_flag("-q,--quiet", g.quiet, "warnings only");
  p.app.add_flag("--debug", g.debug, "debug lines in the log");
  p.app.add_option("--color", g.color, "colour of log lines; NO_COLOR is honoured")->check(CLI::IsMember({"auto", "always", "never"}));
  p.app.add_option("--log-format", g.log_format, "form of log lines")->check(CLI::IsMember({"text", "json"}));
  p.app.add_option("--progress", g.progress, "form of progress")->check(CLI::IsMember({"auto", "bar", "line", "none"}));
  p.app.add_option("--threads", g.threads, "compute threads (default: physical cores); part of what a resume must keep")
      ->check(CLI::Range(1, 1024));
}

void apply_globals(const GlobalOptions& g) {
  LogOptions log;
  log.minimum = g.quiet ? LogLevel::warning : g.verbosity > 0 || g.debug ? LogLevel::debug : LogLevel::info;
  log.format = g.log_format == "json" ? LogFormat::json : LogFormat::text;
  log.color = g.color == "always" ? ColorMode::always : g.color == "never" ? ColorMode::never : ColorMode::automatic;
  configure_log(log);
  set_compute_threads(g.threads);
}

std::string exit_code_table() {
  std::string text = "Exit codes:\n";
  for (const ExitCode& row : exit_codes()) text += fmt::format("  {:>3}  {:<14}{}\n", row.code, row.name, row.sentence);
  return text;
}

/// launch takes another command line behind --, whose words are not flags or commands of this one. Returns what is left of argc.
int cut_command_behind_dashes(Program& p, int argc, char** argv) {
  char** const end = argv + argc;
  char** const dashes = std::find_if(argv, end, [](const char* word) { return std::string_view(word) == "--"; });
  if (dashes == end || std::find_if(argv, dashes, [](const char* word) { return std::string_view(word) == "launch"; }) == dashes)
    return argc;
  p.after_dashes.assign(dashes + 1, end);
  return static_cast<int>(dashes - argv);
}

[[noreturn]] void refuse_usage(const Program& p, const CLI::ParseError& error) {
  std::string command = "longlora-train";
  for (const CLI::App* sub : p.app.get_subcommands()) command += " " + sub->get_name();
  fail(ErrorKind::usage, error.what(), "command line", "see " + command + " --help");
}

}  // namespace

ProgressMode GlobalOptions::progress_mode() const {
  if (quiet && progress == "auto") return ProgressMode::none;
  return progress == "bar"    ? ProgressMode::bar
         : progress == "line" ? ProgressMode::line
         : progress == "none" ? ProgressMode::none
                              : ProgressMode::automatic;
}

CLI::App* add_command(Program& p, const std::string& name, const std::string& summary, const std::string& example) {
  CLI::App* command = p.app.add_subcommand(name, summary);
  command->footer("Example:\n  " + example);
  command->fallthrough();  // global flags may follow the command
  return command;
}

void print_out(const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(STDOUT_FILENO, text.data() + done, text.size() - done);
    if (n <= 0) return;
    done += static_cast<size_t>(n);
  }
}

std::string version_text(bool json) {
  if (!json) return fmt::format("longlora-train {} (commit {}, LibTorch {})\n", kVersion, LONGLORA_COMMIT, TORCH_VERSION);
  return fmt::format("{{\"version\": {}, \"commit\": {}, \"libtorch\": {}, \"cpu_capability\": {}}}\n", json_quote(kVersion),
                     json_quote(LONGLORA_COMMIT), json_quote(TORCH_VERSION), json_quote(at::get_cpu_capability()));
}

Action parse_command(Program& p, int argc, char** argv) {
  argc = cut_command_behind_dashes(p, argc, argv);
  add_globals(p);
  for (auto add : {add_train, add_plan, add_eval, add_generate, add_export, add_import, add_tokenize, add_report, add_config, add_doctor,
                   add_completion, add_launch})
    add(p);
  p.app.allow_extras();  // train translates LongLoRA's flags; for the others unknown arguments are refused below
  p.app.require_subcommand(0, 1);
  p.app.footer(exit_code_table() + "\nExample:\n  longlora-train train -c configs/quickstart.yaml --output-dir out/run");
  try {
    p.app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    const std::string text = p.app.help();
    return [text] {
      print_out(text);
      return 0;
    };
  } catch (const CLI::ParseError& error) {
    refuse_usage(p, error);
  }
  if (p.globals.version)
    return [json = p.globals.json_version] {
      print_out(version_text(json));
      return 0;
    };
  const std::vector<std::string> unknown = p.app.remaining(true);
  LONGLORA_CHECK(unknown.empty() || p.takes_unknown, usage,
                 std::string(p.action ? "unknown argument" : "unknown command") + " '" + escape(unknown.front()) + "'", "command line",
                 "see longlora-train --help");
  if (!p.action) {
    const std::string text = p.app.help();
    print_out(text);
    fail(ErrorKind::usage, "no command given", "command line", "choose one of the commands above");
  }
  return [&p] {
    if (p.blocks_stop_signals) block_stop_signals();  // before LibTorch starts a thread: setting its thread count starts a pool
    apply_globals(p.globals);
    return p.action();
  };
}

}  // namespace longlora::apps
