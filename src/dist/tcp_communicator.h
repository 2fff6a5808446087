#pragma once
// The communicator over sockets: host memory only, every pair of ranks connected on first use.
#include <memory>
#include <vector>

#include "dist/operation.h"
#include "dist/world.h"
#include "longlora/dist/communicator.h"

namespace longlora::dist {

class TcpCommunicator : public Communicator {
 public:
  /// All ranks of the run; its end is this rank's goodbye.
  explicit TcpCommunicator(std::shared_ptr<World>);
  ~TcpCommunicator() override;
  int rank() const override { return rank_; }
  int size() const override { return static_cast<int>(members_.size()); }
  void exchange(int peer, ConstBuffer out, Buffer in, Stream) override;
  void send(int peer, ConstBuffer, Stream) override;
  void receive(int peer, Buffer, Stream) override;
  void all_gather(ConstBuffer mine, Buffer all, Stream) override;
  void broadcast(Buffer, int root, Stream) override;
  void sum(std::span<int64_t>) override;
  void max(std::span<int64_t>) override;
  std::vector<Status> barrier(const Status& mine) override;
  std::unique_ptr<Communicator> split(int color, int key) override;
  void abort(std::string_view reason) noexcept override;
  void set_place(const char* phase, int64_t step) override { world_->state.set_place(phase, step); }
  Traffic traffic() const override { return traffic_; }

 private:
  TcpCommunicator(std::shared_ptr<World>, std::vector<int> members, uint64_t channel);
  void pair_call(Operation, int peer, const ConstBuffer* out, const Buffer* in);
  void gather(Operation, ConstBuffer mine, Buffer all);
  std::vector<int64_t> gather_values(Operation, std::span<const int64_t>);
  int world_rank(int rank) const { return members_[static_cast<size_t>(rank)]; }

  std::shared_ptr<World> world_;
  std::vector<int> members_;  // their ranks in the world
  const uint64_t channel_;
  const bool is_world_;
  int rank_ = 0;
  uint64_t sequence_ = 0;                 // of collectives
  std::vector<uint64_t> pair_sequences_;  // of messages, by member
  Traffic traffic_;
};

}  // namespace longlora::dist
