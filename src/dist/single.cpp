// One rank alone: every collective is a copy or nothing.
#include <cstring>

#include "longlora/core/error.h"
#include "longlora/dist/communicator.h"

namespace longlora::dist {
namespace {

class Single : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void exchange(int, ConstBuffer, Buffer, Stream) override { no_peer(); }
  void send(int, ConstBuffer, Stream) override { no_peer(); }
  void receive(int, Buffer, Stream) override { no_peer(); }
  void all_gather(ConstBuffer mine, Buffer all, Stream) override {
    LONGLORA_INVARIANT(mine.bytes == all.bytes);
    if (mine.data == all.data || mine.bytes == 0) return;
    LONGLORA_INVARIANT(mine.memory == Memory::host && all.memory == Memory::host);
    std::memcpy(all.data, mine.data, mine.bytes);
  }
  void broadcast(Buffer, int root, Stream) override { LONGLORA_INVARIANT(root == 0); }
  void sum(std::span<int64_t>) override {}
  void max(std::span<int64_t>) override {}
  std::vector<Status> barrier(const Status& mine) override { return {mine}; }
  std::unique_ptr<Communicator> split(int, int) override { return single(); }
  void abort(std::string_view) noexcept override {}
  void set_place(const char*, int64_t) override {}
  Traffic traffic() const override { return {}; }

 private:
  [[noreturn]] static void no_peer() {
    fail(ErrorKind::internal, "a single rank has no peer", "dist::single", "report this with the command");
  }
};

}  // namespace

std::unique_ptr<Communicator> single() { return std::make_unique<Single>(); }

}  // namespace longlora::dist
