// longlora-train: the program. Everything has a home elsewhere.
#include "apps/commands.h"
#include "longlora/core/error.h"
#include "longlora/train/stop_request.h"

int main(int argc, char** argv) {
  longlora::ignore_write_signals();
  return longlora::run_guarded([&] {
    longlora::apps::Program program;
    return longlora::apps::parse_command(program, argc, argv)();
  });
}
