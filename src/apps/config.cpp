// longlora-train config: the resolved configuration, its schema, its problems, the presets.
#include <fmt/format.h>

#include "apps/commands.h"
#include "apps/sources.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"

namespace longlora::apps {
namespace {

std::string problems_json(const std::vector<Problem>& problems) {
  std::string errors;
  for (const Problem& p : problems) {
    errors += fmt::format("{}{{\"file\": {}, \"line\": {}, \"column\": {}, \"key\": {}, \"message\": {}}}", errors.empty() ? "" : ", ",
                          json_quote(p.file), p.line, p.column, json_quote(p.key), json_quote(p.message));
  }
  return fmt::format("{{\"ok\": {}, \"errors\": [{}]}}\n", problems.empty(), errors);
}

int validate(const ConfigFlags& flags, bool json) {
  const ConfigSources sources = sources_of(flags);
  const std::vector<Problem> problems = validate_config(sources);
  if (json)
    print_out(problems_json(problems));
  else if (problems.empty())
    print_out("ok\n");
  if (problems.empty()) return 0;
  std::vector<std::string> lines;
  for (const Problem& p : problems) lines.push_back(fmt::format("{}:{}:{}: {}: {}", p.file, p.line, p.column, p.key, p.message));
  fail(ErrorKind::config, fmt::format("{} problem{}: {}", lines.size(), lines.size() == 1 ? "" : "s", lines.front()), flags.file,
       "correct the file", lines);
}

int presets(bool json) {
  std::string text;
  for (const Preset& preset : list_presets()) {
    if (json)
      text += fmt::format("{}{{\"name\": {}, \"summary\": {}, \"path\": {}}}", text.empty() ? "" : ", ", json_quote(preset.name),
                          json_quote(preset.summary), json_quote(preset.path));
    else
      text += fmt::format("{:<20} {}\n", preset.name, preset.summary);
  }
  print_out(json ? "[" + text + "]\n" : text);
  return 0;
}

CLI::App* add_part(CLI::App& config, const char* name, const char* summary, const char* example) {
  CLI::App* part = config.add_subcommand(name, summary);
  part->footer(std::string("Example:\n  ") + example);
  part->fallthrough();
  return part;
}

}  // namespace

void add_config(Program& p) {
  CLI::App* config =
      add_command(p, "config", "prints and checks configurations", "longlora-train config print -c configs/quickstart.yaml --origin");
  config->require_subcommand(1);
  auto flags = std::make_shared<ConfigFlags>();
  auto json = std::make_shared<bool>(false), origin = std::make_shared<bool>(false), markdown = std::make_shared<bool>(false);

  CLI::App* print =
      add_part(*config, "print", "the resolved configuration", "longlora-train config print -c configs/quickstart.yaml --origin");
  add_config_flags(*print, *flags);
  print->add_flag("--origin", *origin, "where every value comes from, in comments");
  print->add_flag("--json", *json, "canonical JSON");
  print->callback([&p, flags, json, origin] {
    p.action = [=] {
      const LoadedConfig loaded = load_config(sources_of(*flags));
      print_out(*json ? canonical_json(loaded.config) + "\n" : print_config(loaded.config, *origin ? loaded.origins : Origins{}));
      return 0;
    };
  });

  CLI::App* schema =
      add_part(*config, "schema", "JSON Schema (draft-07), or the table of keys", "longlora-train config schema > longlora.schema.json");
  schema->add_flag("--markdown", *markdown, "the table of docs/config.md");
  schema->callback([&p, markdown] {
    p.action = [markdown] {
      print_out(*markdown ? config_markdown() : config_schema() + "\n");
      return 0;
    };
  });

  CLI::App* check = add_part(*config, "validate", "all problems of a configuration", "longlora-train config validate -c run.yaml --json");
  add_config_flags(*check, *flags);
  check->add_flag("--json", *json, "machine form");
  check->callback([&p, flags, json] { p.action = [=] { return validate(*flags, *json); }; });

  CLI::App* shipped = add_part(*config, "presets", "configurations that come with the program", "longlora-train config presets");
  shipped->add_flag("--json", *json, "machine form");
  shipped->callback([&p, json] { p.action = [json] { return presets(*json); }; });
}

}  // namespace longlora::apps
