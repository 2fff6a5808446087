// longlora-train launch: refused by name until several ranks exist.
#include "apps/commands.h"
#include "longlora/core/error.h"

namespace longlora::apps {

void add_launch(Program& p) {
  CLI::App* command =
      add_command(p, "launch", "starts several ranks (not in this version)", "longlora-train train -c configs/quickstart.yaml");
  command->allow_extras();
  command->prefix_command();
  command->callback([&p] {
    p.takes_unknown = true;
    p.action = []() -> int { fail(ErrorKind::usage, "launch is not in this version: runs have one rank", "command line", "use train"); };
  });
}

}  // namespace longlora::apps
