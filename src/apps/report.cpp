// longlora-train report: curves and tables of a run in one HTML file.
#include "longlora/train/report.h"

#include "apps/commands.h"

namespace longlora::apps {

void add_report(Program& p) {
  auto folder = std::make_shared<std::string>();
  CLI::App* command =
      add_command(p, "report", "writes report.html of a run: SVG curves and tables in one file", "longlora-train report out/run");
  command->add_option("RUN_DIR", *folder, "output_dir of a training run")->required();
  command->callback([&p, folder] {
    p.action = [folder] {
      print_out(write_report(*folder).string() + "\n");
      return 0;
    };
  });
}

}  // namespace longlora::apps
