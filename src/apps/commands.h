#pragma once
// One function per command: declares its flags on the CLI11 program and says what to run. Commands are thin: the work is in `train` and
// below.
#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "longlora/core/log.h"
#include "longlora/train/observers.h"

namespace longlora::apps {

/// Flags that stand before or after any command.
struct GlobalOptions {
  int verbosity = 0;
  bool quiet = false, debug = false, version = false, json_version = false;
  std::string color = "auto", log_format = "text", progress = "auto";
  int threads = 0;
  ProgressMode progress_mode() const;
};

/// A parsed command: what to run, with the exit code it returns.
using Action = std::function<int()>;

struct Program {
  CLI::App app{"Extends the context of Llama-family models with LongLoRA.", "longlora-train"};
  GlobalOptions globals;
  Action action;
  bool blocks_stop_signals = false;         // the command waits for them on a thread of its own
  bool takes_unknown = false;               // the chosen command reads unknown arguments itself (LongLoRA's flags)
  std::vector<std::string> after_dashes;    // launch: what stands behind --, another command line
  std::function<std::string()> output_dir;  // train: the folder it will write to; reads the configuration
};

/// Subcommand with the example shown under --help; every command has one.
CLI::App* add_command(Program&, const std::string& name, const std::string& summary, const std::string& example);
/// `--json` text or a line on stdout; a closed stdout is ignored.
void print_out(const std::string& text);

void add_train(Program&);
void add_plan(Program&);
void add_eval(Program&);
void add_generate(Program&);
void add_export(Program&);
void add_import(Program&);
void add_tokenize(Program&);
void add_report(Program&);
void add_config(Program&);
void add_doctor(Program&);
void add_completion(Program&);
void add_launch(Program&);

/// Parses the command line: usage errors are ErrorKind::usage; --help and --version are actions.
Action parse_command(Program&, int argc, char** argv);
std::string version_text(bool json);

}  // namespace longlora::apps
