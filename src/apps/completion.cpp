// longlora-train completion: generated from the same declarations that parse the command line.
#include <fmt/format.h>

#include <map>

#include "apps/commands.h"

namespace longlora::apps {
namespace {

/// Command path ("eval perplexity") -> words that may follow it.
using Words = std::map<std::string, std::vector<std::string>>;

void collect(const CLI::App& app, const std::string& path, Words& words) {
  std::vector<std::string>& here = words[path];
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    here.push_back(sub->get_name());
    collect(*sub, path.empty() ? sub->get_name() : path + " " + sub->get_name(), words);
  }
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) here.push_back("--" + name);
  }
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

std::string bash_script(const Words& words) {
  std::string cases;
  for (const auto& [path, follow] : words) cases += fmt::format("    '{}') words='{}' ;;\n", path, joined(follow));
  return "_longlora_train() {\n  local path='' words='' word\n  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do\n"
         "    [[ $word == -* ]] && break\n    path=\"${path:+$path }$word\"\n  done\n  case \"$path\" in\n" +
         cases +
         "    *) words='' ;;\n  esac\n  COMPREPLY=($(compgen -W \"$words\" -f -- \"${COMP_WORDS[COMP_CWORD]}\"))\n}\n"
         "complete -o filenames -F _longlora_train longlora-train\n";
}

std::string fish_script(const Words& words) {
  std::string out;
  for (const auto& [path, follow] : words) {
    const std::string when = path.empty() ? "__fish_use_subcommand" : "__fish_seen_subcommand_from " + path.substr(path.rfind(' ') + 1);
    out += fmt::format("complete -c longlora-train -n '{}' -a '{}'\n", when, joined(follow));
  }
  return out;
}

}  // namespace

void add_completion(Program& p) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command =
      add_command(p, "completion", "prints a completion script", "longlora-train completion bash > /etc/bash_completion.d/longlora-train");
  command->add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  command->callback([&p, shell] {
    p.action = [&p, shell] {
      Words words;
      collect(p.app, "", words);
      if (*shell == "fish")
        print_out(fish_script(words));
      else
        print_out((*shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "") + bash_script(words));
      return 0;
    };
  });
}

}  // namespace longlora::apps
