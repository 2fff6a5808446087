#include "dist/tcp_communicator.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <numeric>

#include "dist/call.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr size_t kStatusTextBytes = 1024;

struct StatusRecord {
  int32_t code = 0;
  uint32_t text_bytes = 0;
  char text[kStatusTextBytes] = {};
};

std::vector<int> all_ranks(int size) {
  std::vector<int> ranks(static_cast<size_t>(size));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

void check_host(Memory memory, size_t bytes) {
  LONGLORA_CHECK(memory == Memory::host || bytes == 0, internal, "the tcp transport was given device memory", "dist::TcpCommunicator",
                 "report this with the command and its output");
}

Flow output(const Call& call, int peer, const std::byte* data, size_t bytes) {
  Flow flow{.peer = peer, .is_output = true, .header = call.header(bytes)};
  flow.data = const_cast<char*>(reinterpret_cast<const char*>(data));  // only read
  flow.bytes = bytes;
  return flow;
}

Flow input(const Call& call, int peer, std::byte* data, size_t bytes) {
  Flow flow{.peer = peer, .is_output = false, .header = call.header(bytes)};
  flow.data = reinterpret_cast<char*>(data);
  flow.bytes = bytes;
  return flow;
}

}  // namespace

TcpCommunicator::TcpCommunicator(std::shared_ptr<World> world) : TcpCommunicator(world, all_ranks(world->state.world()), 0) {}

TcpCommunicator::TcpCommunicator(std::shared_ptr<World> world, std::vector<int> members, uint64_t channel)
    : world_(std::move(world)), members_(std::move(members)), channel_(channel), is_world_(channel == 0), pair_sequences_(members_.size()) {
  rank_ = static_cast<int>(std::find(members_.begin(), members_.end(), world_->state.rank()) - members_.begin());
}

/// Also on the way out with an error: an error that all ranks have agreed on must not reach those still reading its last call as a lost
/// peer. Whoever needs this rank afterwards finds that it has left.
TcpCommunicator::~TcpCommunicator() {
  if (is_world_) world_->control.leave();
}

void TcpCommunicator::pair_call(Operation operation, int peer, const ConstBuffer* out, const Buffer* in) {
  LONGLORA_INVARIANT(peer >= 0 && peer < size() && peer != rank_);
  if (out != nullptr) check_host(out->memory, out->bytes);
  if (in != nullptr) check_host(in->memory, in->bytes);
  const size_t out_bytes = out != nullptr ? out->bytes : 0, in_bytes = in != nullptr ? in->bytes : 0;
  const int other = world_rank(peer);
  Call call(*world_, operation, channel_, ++pair_sequences_[static_cast<size_t>(peer)], other, std::max(out_bytes, in_bytes));
  std::vector<Flow> flows;
  if (out != nullptr) flows.push_back(output(call, other, out->data, out->bytes));
  if (in != nullptr) flows.push_back(input(call, other, in->data, in->bytes));
  call.run(flows);
  traffic_.sent += out_bytes;
  traffic_.received += in_bytes;
}

void TcpCommunicator::exchange(int peer, ConstBuffer out, Buffer in, Stream) { pair_call(Operation::exchange, peer, &out, &in); }
void TcpCommunicator::send(int peer, ConstBuffer out, Stream) { pair_call(Operation::send, peer, &out, nullptr); }
void TcpCommunicator::receive(int peer, Buffer in, Stream) { pair_call(Operation::receive, peer, nullptr, &in); }
void TcpCommunicator::all_gather(ConstBuffer mine, Buffer all, Stream) { gather(Operation::all_gather, mine, all); }

void TcpCommunicator::gather(Operation operation, ConstBuffer mine, Buffer all) {
  LONGLORA_INVARIANT(all.bytes == mine.bytes * members_.size());
  check_host(mine.memory, mine.bytes);
  check_host(all.memory, all.bytes);
  Call call(*world_, operation, channel_, ++sequence_, -1, mine.bytes);
  std::vector<Flow> flows;
  for (int step = 1; step < size(); ++step) {  // each rank begins with another peer, so that nobody is sent to by all at once
    const int to = (rank_ + step) % size(), from = (rank_ - step + size()) % size();
    flows.push_back(output(call, world_rank(to), mine.data, mine.bytes));
    flows.push_back(input(call, world_rank(from), all.data + static_cast<size_t>(from) * mine.bytes, mine.bytes));
  }
  std::byte* own = all.data + static_cast<size_t>(rank_) * mine.bytes;
  if (mine.bytes > 0 && own != mine.data) std::memcpy(own, mine.data, mine.bytes);
  call.run(flows);
  traffic_.sent += mine.bytes * (members_.size() - 1);
  traffic_.received += mine.bytes * (members_.size() - 1);
}

/// A binomial tree: counted from the root, a rank's parent lacks its lowest set bit. What has come from the parent goes on at once.
void TcpCommunicator::broadcast(Buffer data, int root, Stream) {
  LONGLORA_INVARIANT(root >= 0 && root < size());
  check_host(data.memory, data.bytes);
  Call call(*world_, Operation::broadcast, channel_, ++sequence_, -1, data.bytes);
  const auto place = static_cast<unsigned>((rank_ - root + size()) % size()), count = static_cast<unsigned>(size());
  const auto member = [&](unsigned p) { return world_rank(static_cast<int>((p + static_cast<unsigned>(root)) % count)); };
  const unsigned own_bit = place == 0 ? std::bit_ceil(count) : place & -place;
  std::vector<Flow> flows;
  flows.reserve(std::numeric_limits<unsigned>::digits + 1);  // `available` points into it
  if (place != 0) flows.push_back(input(call, member(place & (place - 1)), data.data, data.bytes));
  for (unsigned bit = own_bit >> 1; bit > 0; bit >>= 1) {
    if (place + bit >= count) continue;
    flows.push_back(output(call, member(place + bit), data.data, data.bytes));
    if (place != 0) flows.back().available = &flows.front().done;
    traffic_.sent += data.bytes;
  }
  call.run(flows);
  if (place != 0) traffic_.received += data.bytes;
}

std::vector<int64_t> TcpCommunicator::gather_values(Operation operation, std::span<const int64_t> mine) {
  std::vector<int64_t> all(mine.size() * members_.size());
  gather(operation, bytes_of(mine), writable_bytes_of(std::span(all)));
  return all;
}

void TcpCommunicator::sum(std::span<int64_t> values) {
  const std::vector<int64_t> all = gather_values(Operation::sum, values);
  for (size_t i = 0; i < values.size(); ++i) {
    __int128 total = 0;  // cannot overflow, so that only the end counts and not the order
    for (size_t r = 0; r < members_.size(); ++r) total += all[r * values.size() + i];
    const bool fits = total >= std::numeric_limits<int64_t>::min() && total <= std::numeric_limits<int64_t>::max();
    LONGLORA_CHECK(fits, internal, fmt::format("value {} of a sum over {} ranks does not fit 64 bits", i, size()),
                   fmt::format("rank {}, sum #{}", rank_, sequence_), "report this with the command and its output");
    values[i] = static_cast<int64_t>(total);
  }
}

void TcpCommunicator::max(std::span<int64_t> values) {
  const std::vector<int64_t> all = gather_values(Operation::max, values);
  for (size_t i = 0; i < values.size(); ++i)
    for (size_t r = 0; r < members_.size(); ++r) values[i] = std::max(values[i], all[r * values.size() + i]);
}

std::vector<Status> TcpCommunicator::barrier(const Status& mine) {
  std::vector<StatusRecord> all(members_.size());
  StatusRecord& own = all[static_cast<size_t>(rank_)];
  own.code = mine.code;
  own.text_bytes = static_cast<uint32_t>(std::min(mine.text.size(), kStatusTextBytes));
  std::copy_n(mine.text.begin(), own.text_bytes, own.text);
  gather(Operation::barrier, {reinterpret_cast<const std::byte*>(&own), sizeof own}, writable_bytes_of(std::span(all)));
  std::vector<Status> statuses;
  for (const StatusRecord& record : all)
    statuses.push_back({record.code, std::string(record.text, std::min<size_t>(record.text_bytes, kStatusTextBytes))});
  return statuses;
}

std::unique_ptr<Communicator> TcpCommunicator::split(int color, int key) {
  const std::vector<int64_t> all = gather_values(Operation::split, std::array<int64_t, 2>{color, key});
  std::vector<std::pair<int64_t, int>> part;  // (key, rank)
  for (int r = 0; r < size(); ++r)
    if (all[2 * static_cast<size_t>(r)] == color) part.push_back({all[2 * static_cast<size_t>(r) + 1], r});
  std::sort(part.begin(), part.end());
  std::vector<int> members;
  for (const auto& [unused, r] : part) members.push_back(world_rank(r));
  // the same on all members, another one for every split and color; 0 is the world's
  const Digest digest = Sha256().update_value(channel_).update_value(sequence_).update_value(int64_t{color}).finish();
  uint64_t channel = 0;
  std::memcpy(&channel, digest.data(), sizeof channel);
  return std::unique_ptr<Communicator>(new TcpCommunicator(world_, std::move(members), channel | 1));
}

void TcpCommunicator::abort(std::string_view reason) noexcept {
  try {
    world_->fail_run(fmt::format("rank {} ended the run: {}", world_->state.rank(), reason));
  } catch (const std::exception&) {
    world_->fail_run({});
  }
}

}  // namespace longlora::dist
