#pragma once
// NCCL for ranks as threads: device memory is host memory, and the stream's work is done when its mark is asked.
#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "dist/collective_library.h"
#include "dist/nccl_result.h"

namespace longlora::test {

struct FakeNcclWorld {
  struct Group {
    int size = 0, joined = 0;
    bool aborted = false;
    std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> boxes;
  };
  std::mutex mutex;
  std::map<dist::CollectiveLibrary::UniqueId, Group> groups;
  int ids = 0, live = 0;
};

class FakeNccl : public dist::CollectiveLibrary {
 public:
  FakeNccl(FakeNcclWorld& world, int device) : world_(world), device_(device) {}
  int version = 22809;
  int state_error = 0;  // what every state becomes

  int header_version() const override { return 22809; }
  int library_version() const override { return version; }
  std::string device_name() const override { return "GPU " + std::to_string(device_); }
  DeviceUuid device_uuid() override { return {static_cast<uint8_t>(device_ + 1)}; }
  int make_id(UniqueId& id) override {
    const std::lock_guard lock(world_.mutex);
    id[0] = static_cast<std::byte>(++world_.ids);
    return dist::kNcclSuccess;
  }
  int init(Handle& handle, int size, const UniqueId& id, int rank) override {
    const std::lock_guard lock(world_.mutex);
    auto& group = world_.groups[id];
    group.size = size, ++group.joined, ++world_.live;
    handle = new Comm{&group, rank, 3};
    return dist::kNcclInProgress;
  }
  int state(Handle handle, int& result) override {
    const std::lock_guard lock(world_.mutex);
    Comm& comm = *static_cast<Comm*>(handle);
    const bool busy = comm.group->joined < comm.group->size || comm.polls_left-- > 0;
    result = state_error ? state_error : comm.group->aborted ? 6 : busy ? dist::kNcclInProgress : dist::kNcclSuccess;
    return dist::kNcclSuccess;
  }
  int group_start() override { return dist::kNcclSuccess; }
  int group_end() override { return dist::kNcclInProgress; }
  int send(Handle handle, dist::ConstBuffer out, int peer, dist::Stream) override {
    const std::lock_guard lock(world_.mutex);
    put(handle, out, peer);
    return begin(handle);
  }
  int receive(Handle handle, dist::Buffer in, int peer, dist::Stream) override {
    const std::lock_guard lock(world_.mutex);
    take_later(handle, in, peer);
    return begin(handle);
  }
  int all_gather(Handle handle, dist::ConstBuffer mine, dist::Buffer all, dist::Stream) override {
    const std::lock_guard lock(world_.mutex);
    const Comm& comm = *static_cast<Comm*>(handle);
    for (int peer = 0; peer < comm.group->size; ++peer) {
      put(handle, mine, peer);
      take_later(handle, {all.data + static_cast<size_t>(peer) * mine.bytes, mine.bytes, dist::Memory::device}, peer);
    }
    return begin(handle);
  }
  int broadcast(Handle handle, dist::Buffer data, int root, dist::Stream) override {
    const std::lock_guard lock(world_.mutex);
    const Comm& comm = *static_cast<Comm*>(handle);
    for (int peer = 0; comm.rank == root && peer < comm.group->size; ++peer) put(handle, {data.data, data.bytes}, peer);
    take_later(handle, data, root);
    return begin(handle);
  }
  int finalize(Handle handle) override { return begin(handle); }
  int destroy(Handle handle) override { return release(handle, false); }
  int abort(Handle handle) override { return release(handle, true); }
  std::string last_error(Handle) override { return ""; }
  Mark record(Mark, dist::Stream) override {
    const std::lock_guard lock(world_.mutex);
    return reinterpret_cast<Mark>(issued_);
  }
  dist::Progress progress(Mark mark, std::string&) override {
    const std::lock_guard lock(world_.mutex);
    while (!work_.empty() && work_.front()()) work_.pop_front(), ++done_;
    return done_ >= reinterpret_cast<size_t>(mark) ? dist::Progress::done : dist::Progress::pending;
  }
  void wait_for_all() {  // cudaStreamSynchronize
    std::string error;
    while (progress(record(nullptr, nullptr), error) != dist::Progress::done) {
    }
  }

 private:
  struct Comm {
    FakeNcclWorld::Group* group;
    int rank;
    int polls_left;
  };
  int begin(Handle handle) {
    static_cast<Comm*>(handle)->polls_left = 2;
    return dist::kNcclInProgress;
  }
  void put(Handle handle, dist::ConstBuffer out, int peer) {
    Comm& comm = *static_cast<Comm*>(handle);
    comm.group->boxes[{comm.rank, peer}].emplace_back(out.data, out.data + out.bytes);
  }
  void take_later(Handle handle, dist::Buffer in, int peer) {
    auto* group = static_cast<Comm*>(handle)->group;
    ++issued_;
    work_.push_back([group, in, key = std::pair(peer, static_cast<Comm*>(handle)->rank)] {
      auto& box = group->boxes[key];
      if (box.empty() || box.front().size() != in.bytes) return false;
      std::memcpy(in.data, box.front().data(), in.bytes);
      box.pop_front();
      return true;
    });
  }
  int release(Handle handle, bool aborted) {
    const std::lock_guard lock(world_.mutex);
    auto* comm = static_cast<Comm*>(handle);
    if (aborted) comm->group->aborted = true;
    --world_.live;
    delete comm;
    return dist::kNcclSuccess;
  }
  FakeNcclWorld& world_;
  const int device_;
  std::deque<std::function<bool()>> work_;
  size_t issued_ = 0, done_ = 0;
};

}  // namespace longlora::test
