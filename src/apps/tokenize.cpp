// longlora-train tokenize: text as a token file with header and digests.
#include "longlora/data/tokenize.h"

#include <fmt/format.h>
#include <unistd.h>

#include "apps/commands.h"
#include "longlora/core/error.h"
#include "longlora/train/environment.h"
#include "longlora/train/version.h"

namespace longlora::apps {
namespace {

struct TokenizeFlags {
  std::string model, output, format = "auto", field = "text", split = "file", separator, template_name = "none";
  std::vector<std::string> inputs;
  bool force = false, parse_special = false;
};

void show_progress(const TokenizeProgress& progress) {
  if (::isatty(STDERR_FILENO) == 0 || progress.bytes_total == 0) return;
  const std::string text =
      fmt::format("\r{:.0f} % {} tokens\x1b[K",
                  100.0 * static_cast<double>(progress.bytes_done) / static_cast<double>(progress.bytes_total), progress.tokens);
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

int tokenize(const TokenizeFlags& flags) {
  const std::unique_ptr<Tokenizer> tokenizer = load_tokenizer(flags.model);
  TokenizeOptions options{.tokenizer = tokenizer.get(),
                          .format = flags.format,
                          .field = flags.field,
                          .split = flags.split,
                          .separator = flags.separator,
                          .template_name = flags.template_name,
                          .parse_special = flags.parse_special,
                          .threads = compute_threads(),
                          .force = flags.force,
                          .program_version = std::string(kVersion)};
  options.progress = show_progress;
  const std::vector<std::filesystem::path> inputs(flags.inputs.begin(), flags.inputs.end());
  const TokenizeResult result = tokenize_files(inputs, flags.output, options);
  print_out(fmt::format("{}: {} documents, {} tokens{}\n", result.path.string(), result.documents, result.tokens,
                        result.up_to_date ? ", up to date" : ""));
  return 0;
}

}  // namespace

void add_tokenize(Program& p) {
  auto flags = std::make_shared<TokenizeFlags>();
  CLI::App* command = add_command(p, "tokenize", "writes a token file with header and digests",
                                  "longlora-train tokenize --model models/quickstart --input books/*.txt --output books.tokens");
  command->add_option("--model", flags->model, "folder with tokenizer.json or tokenizer.model")->required();
  command->add_option("--input", flags->inputs, "text or jsonl files")->required();
  command->add_option("--output", flags->output, "token file to write")->required();
  command->add_option("--format", flags->format, "format of the inputs")->check(CLI::IsMember({"auto", "text", "jsonl"}));
  command->add_option("--field", flags->field, "jsonl: field that holds the text");
  command->add_option("--split", flags->split, "text: one document a file, blank_line, or separator")
      ->check(CLI::IsMember({"file", "blank_line", "separator"}));
  command->add_option("--separator", flags->separator, "line between documents with --split separator");
  command->add_option("--template", flags->template_name, "template of chat records; only none in this version");
  command->add_flag("--parse-special", flags->parse_special, "text of special tokens becomes their id");
  command->add_flag("--force", flags->force, "replace an output made from something else");
  command->callback([&p, flags] { p.action = [flags] { return tokenize(*flags); }; });
}

}  // namespace longlora::apps
