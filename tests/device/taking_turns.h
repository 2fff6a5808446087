#pragma once
// Ranks as threads that share the one emulator.
#include <cstring>
#include <mutex>
#include <vector>

#include "device/arena.h"
#include "device/fake_device.h"
#include "support/thread_ranks.h"

namespace longlora::test {

inline std::mutex turn;  // the emulator runs one kernel at a time: a rank computes while it holds this, and gives it away where it waits

/// A transport for device memory over the ranks' threads.
class TakingTurns final : public dist::Communicator {
 public:
  explicit TakingTurns(dist::Communicator& inner) : inner_(inner) {}
  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  void send(int peer, dist::ConstBuffer out, dist::Stream) override {
    if (out.memory == dist::Memory::device) ++device_messages;
    const fake::Access access;
    inner_.send(peer, out, nullptr);
  }
  void receive(int peer, dist::Buffer in, dist::Stream) override {
    std::vector<std::byte> staged(in.bytes);
    waiting([&] { inner_.receive(peer, {staged.data(), in.bytes, dist::Memory::host}, nullptr); });
    const fake::Access access;
    std::memcpy(in.data, staged.data(), in.bytes);
  }
  void exchange(int peer, dist::ConstBuffer out, dist::Buffer in, dist::Stream) override {
    send(peer, out, nullptr);
    receive(peer, in, nullptr);
  }
  void all_gather(dist::ConstBuffer mine, dist::Buffer all, dist::Stream) override {
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank()) send(peer, mine, nullptr);
    for (int peer = 0; peer < size(); ++peer) {
      std::byte* place = all.data + static_cast<size_t>(peer) * mine.bytes;
      if (peer != rank()) receive(peer, {place, mine.bytes, all.memory}, nullptr);
      const fake::Access access;
      if (peer == rank()) std::memcpy(place, mine.data, mine.bytes);
    }
  }
  void sum(std::span<int64_t> values) override {
    waiting([&] { inner_.sum(values); });
  }
  void broadcast(dist::Buffer data, int root, dist::Stream) override {
    if (rank() != root) return receive(root, data, nullptr);
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank()) send(peer, {data.data, data.bytes, data.memory}, nullptr);
  }
  void max(std::span<int64_t> values) override {
    waiting([&] { inner_.max(values); });
  }
  std::vector<dist::Status> barrier(const dist::Status& mine) override {
    std::vector<dist::Status> all;
    waiting([&] { all = inner_.barrier(mine); });
    return all;
  }
  bool takes_device_memory() const override { return true; }
  std::unique_ptr<dist::Communicator> split(int, int) override { return nullptr; }
  void abort(std::string_view reason) noexcept override { inner_.abort(reason); }
  void set_place(const char*, int64_t) override {}
  dist::Traffic traffic() const override { return inner_.traffic(); }
  int64_t device_messages = 0;

 private:
  template <class F>
  void waiting(F&& f) {
    turn.unlock();
    try {
      f();
    } catch (...) {
      turn.lock();
      throw;
    }
    turn.lock();
  }
  dist::Communicator& inner_;
};

/// `body` once per rank, one rank computing at a time.
inline void run_device_ranks(int size, const std::function<void(TakingTurns&)>& body) {
  run_ranks(size, [&](dist::Communicator& inner) {
    const std::lock_guard lock(turn);
    TakingTurns ranks(inner);
    body(ranks);
  });
}

}  // namespace longlora::test
