#pragma once
// -c FILE, --set, environment and LongLoRA's own flags -> ConfigSources.
#include <string>
#include <vector>

#include "apps/commands.h"
#include "longlora/config/config_io.h"

namespace longlora::apps {

struct ConfigFlags {
  std::string file, output_dir, device;
  std::vector<std::string> assignments;  // key=value
};
void add_config_flags(CLI::App&, ConfigFlags&);
/// `legacy`: arguments CLI11 did not know; translated with a notice each, or ErrorKind::usage.
ConfigSources sources_of(const ConfigFlags&, const std::vector<std::string>& legacy = {});

}  // namespace longlora::apps
