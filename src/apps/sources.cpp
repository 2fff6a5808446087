#include "apps/sources.h"

#include <unistd.h>

#include "longlora/core/error.h"

namespace longlora::apps {

void add_config_flags(CLI::App& command, ConfigFlags& flags) {
  command.add_option("-c,--config", flags.file, "configuration file (.yaml or .json)");
  command.add_option("--set", flags.assignments, "key=value, wins over the file; may be given several times")->allow_extra_args(false);
}

ConfigSources sources_of(const ConfigFlags& flags, const std::vector<std::string>& legacy) {
  ConfigSources sources;
  if (!flags.file.empty()) sources.file = flags.file;
  for (char** entry = ::environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const size_t equals = text.find('=');
    if (equals != std::string::npos && text.starts_with("LONGLORA_")) sources.environment[text.substr(0, equals)] = text.substr(equals + 1);
  }
  if (!legacy.empty()) {
    LegacyTranslation translated = translate_legacy_flags(legacy);
    for (const std::string& notice : translated.notices) log_notice("{}", notice);
    sources.assignments = std::move(translated.assignments);
  }
  for (const std::string& text : flags.assignments) {
    const size_t equals = text.find('=');
    LONGLORA_CHECK(equals != std::string::npos && equals > 0, usage, "'" + escape(text) + "' is not key=value", "--set",
                   "write for example --set train.steps=300");
    sources.assignments.push_back({text.substr(0, equals), text.substr(equals + 1), "--set"});
  }
  if (!flags.device.empty()) sources.assignments.push_back({"device", flags.device, "--device"});
  if (!flags.output_dir.empty()) sources.assignments.push_back({"output_dir", flags.output_dir, "--output-dir"});
  return sources;
}

}  // namespace longlora::apps
