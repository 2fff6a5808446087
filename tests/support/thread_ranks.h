#pragma once
// Ranks as threads of one test process: a Communicator over shared memory, for everything above the transport.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "longlora/core/error.h"
#include "longlora/dist/communicator.h"

namespace longlora::test {

/// Mailboxes of a set of ranks: messages of one (from, to) pair arrive in order. A failed rank wakes all others.
class ThreadWorld {
 public:
  explicit ThreadWorld(int size) : size_(size) {}
  int size() const { return size_; }

  void put(int from, int to, const std::byte* data, size_t bytes) {
    const std::lock_guard lock(mutex_);
    boxes_[{from, to}].emplace_back(data, data + bytes);
    arrived_.notify_all();
  }
  std::vector<std::byte> take(int from, int to) {
    std::unique_lock lock(mutex_);
    auto& box = boxes_[{from, to}];
    const bool in_time = arrived_.wait_for(lock, std::chrono::seconds(60), [&] { return failed_ || !box.empty(); });
    if (failed_ || !in_time) fail(ErrorKind::peer, failed_ ? "a peer failed" : "no message within a minute", "test", "look at the peer");
    std::vector<std::byte> message = std::move(box.front());
    box.pop_front();
    return message;
  }
  void fail_all() {
    const std::lock_guard lock(mutex_);
    failed_ = true;
    arrived_.notify_all();
    for (const auto& [members, world] : parts_) world->fail_all();  // a failed run ends the waits in every part of it
  }
  std::shared_ptr<ThreadWorld> part(const std::vector<int>& members) {
    const std::lock_guard lock(mutex_);
    const int instance = splits_[members]++ / static_cast<int>(members.size());  // every member asks once per split
    auto& world = parts_[{members, instance}];
    if (!world) world = std::make_shared<ThreadWorld>(static_cast<int>(members.size()));
    if (failed_) world->fail_all();
    return world;
  }

 private:
  const int size_;
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> boxes_;
  std::map<std::vector<int>, int> splits_;
  std::map<std::pair<std::vector<int>, int>, std::shared_ptr<ThreadWorld>> parts_;
  bool failed_ = false;
};

class ThreadCommunicator : public dist::Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadWorld> world, int rank) : world_(std::move(world)), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  void exchange(int peer, dist::ConstBuffer out, dist::Buffer in, dist::Stream) override {
    if (out.bytes > 0) send(peer, out, nullptr);
    if (in.bytes > 0) receive(peer, in, nullptr);
  }
  void send(int peer, dist::ConstBuffer out, dist::Stream) override {
    LONGLORA_INVARIANT(peer != rank_ && peer >= 0 && peer < size());
    world_->put(rank_, peer, out.data, out.bytes);
    traffic_.sent += out.bytes;
  }
  void receive(int peer, dist::Buffer in, dist::Stream) override {
    const std::vector<std::byte> message = world_->take(peer, rank_);
    LONGLORA_CHECK(message.size() == in.bytes, peer, "a message of " + std::to_string(message.size()) + " bytes", "test",
                   "expected another");
    std::memcpy(in.data, message.data(), in.bytes);
    traffic_.received += in.bytes;
  }
  void all_gather(dist::ConstBuffer mine, dist::Buffer all, dist::Stream) override {
    LONGLORA_INVARIANT(all.bytes == mine.bytes * static_cast<size_t>(size()));
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank_) send(peer, mine, nullptr);
    for (int peer = 0; peer < size(); ++peer) {
      std::byte* place = all.data + static_cast<size_t>(peer) * mine.bytes;
      if (peer != rank_)
        receive(peer, {place, mine.bytes}, nullptr);
      else if (place != mine.data)
        std::memcpy(place, mine.data, mine.bytes);
    }
  }
  void broadcast(dist::Buffer data, int root, dist::Stream) override {
    if (rank_ != root) return receive(root, data, nullptr);
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank_) send(peer, {data.data, data.bytes}, nullptr);
  }
  void sum(std::span<int64_t> values) override {
    combine(values, [](int64_t a, int64_t b) { return a + b; });
  }
  void max(std::span<int64_t> values) override {
    combine(values, [](int64_t a, int64_t b) { return std::max(a, b); });
  }
  std::vector<dist::Status> barrier(const dist::Status& mine) override {
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank_) {
        world_->put(rank_, peer, reinterpret_cast<const std::byte*>(&mine.code), sizeof mine.code);
        world_->put(rank_, peer, reinterpret_cast<const std::byte*>(mine.text.data()), mine.text.size());
      }
    std::vector<dist::Status> all(static_cast<size_t>(size()), mine);
    for (int peer = 0; peer < size(); ++peer)
      if (peer != rank_) {
        dist::Status& theirs = all[static_cast<size_t>(peer)];
        std::memcpy(&theirs.code, world_->take(peer, rank_).data(), sizeof theirs.code);
        const std::vector<std::byte> text = world_->take(peer, rank_);
        theirs.text.assign(reinterpret_cast<const char*>(text.data()), text.size());
      }
    return all;
  }
  std::unique_ptr<dist::Communicator> split(int color, int key) override {
    std::vector<int64_t> mine = {color, key}, all(2 * static_cast<size_t>(size()));
    all_gather(dist::bytes_of(std::span<const int64_t>(mine)), dist::writable_bytes_of(std::span(all)), nullptr);
    std::vector<std::pair<int64_t, int>> members;  // (key, rank)
    for (int r = 0; r < size(); ++r)
      if (all[2 * static_cast<size_t>(r)] == color) members.push_back({all[2 * static_cast<size_t>(r) + 1], r});
    std::sort(members.begin(), members.end());
    std::vector<int> ranks;
    for (const auto& [unused, r] : members) ranks.push_back(r);
    const int place = static_cast<int>(std::find(ranks.begin(), ranks.end(), rank_) - ranks.begin());
    return std::make_unique<ThreadCommunicator>(world_->part(ranks), place);
  }
  void abort(std::string_view) noexcept override { world_->fail_all(); }
  void set_place(const char*, int64_t) override {}
  dist::Traffic traffic() const override { return traffic_; }

 private:
  template <class F>
  void combine(std::span<int64_t> values, F f) {
    std::vector<int64_t> all(values.size() * static_cast<size_t>(size()));
    const std::vector<int64_t> mine(values.begin(), values.end());
    all_gather(dist::bytes_of(std::span<const int64_t>(mine)), dist::writable_bytes_of(std::span(all)), nullptr);
    for (int r = 0; r < size(); ++r)
      if (r != rank_)
        for (size_t i = 0; i < values.size(); ++i) values[i] = f(values[i], all[static_cast<size_t>(r) * values.size() + i]);
  }
  std::shared_ptr<ThreadWorld> world_;
  int rank_;
  dist::Traffic traffic_;
};

/// Runs `body` once per rank, each in its own thread; rethrows the first exception that is not about a failed peer.
inline void run_ranks(int size, const std::function<void(dist::Communicator&)>& body) {
  auto world = std::make_shared<ThreadWorld>(size);
  std::mutex mutex;
  std::exception_ptr first;
  bool first_is_peer = false;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        ThreadCommunicator communicator(world, rank);
        body(communicator);
      } catch (const std::exception& error) {
        const auto* ours = dynamic_cast<const Error*>(&error);
        const bool is_peer = ours != nullptr && ours->kind == ErrorKind::peer;
        {
          const std::lock_guard lock(mutex);
          if (!first || (first_is_peer && !is_peer)) first = std::current_exception(), first_is_peer = is_peer;
        }
        world->fail_all();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  if (first) std::rethrow_exception(first);
}

}  // namespace longlora::test
