#pragma once
// What ranks say to each other: bytes, exact integers and statuses. There is no floating-point reduction here: sums of floats have one
// definition (train/reducer, docs/determinism.md), and a transport only moves them.
//
// All calls are made in the same order on all ranks of a communicator. A rank that is lost, hung past its deadline, or in another call
// ends the wait of all others with ErrorKind::peer naming rank, step, operation and sequence number.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longlora::dist {

enum class Memory { host, device };
using Stream = void*;  // cudaStream_t that orders device memory; ignored for host memory

struct ConstBuffer {
  const std::byte* data = nullptr;
  size_t bytes = 0;
  Memory memory = Memory::host;
};
struct Buffer {
  std::byte* data = nullptr;
  size_t bytes = 0;
  Memory memory = Memory::host;
};

/// What a rank brings to a barrier: 0, or the exit code of its error and one line about it (at most 1,024 bytes, the rest is cut).
struct Status {
  int32_t code = 0;
  std::string text;
};

/// Payload bytes of this rank on this communicator since it was made, without frame headers. Measured, for docs and tests.
struct Traffic {
  uint64_t sent = 0, received = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  /// Both directions at once, sizes may differ, either may be empty. Deadlock-free when both ranks of a pair call it.
  virtual void exchange(int peer, ConstBuffer out, Buffer in, Stream stream = nullptr) = 0;
  virtual void send(int peer, ConstBuffer, Stream stream = nullptr) = 0;
  virtual void receive(int peer, Buffer, Stream stream = nullptr) = 0;
  /// `all` = the `mine` of rank 0, 1, ...: equal parts, all.bytes == size() * mine.bytes. `mine` may be its own part of `all`.
  virtual void all_gather(ConstBuffer mine, Buffer all, Stream stream = nullptr) = 0;
  virtual void broadcast(Buffer, int root, Stream stream = nullptr) = 0;

  /// Element by element over all ranks, exact, on the host. An overflowing sum is ErrorKind::internal.
  virtual void sum(std::span<int64_t>) = 0;
  virtual void max(std::span<int64_t>) = 0;
  /// Waits for all ranks; their statuses by rank.
  virtual std::vector<Status> barrier(const Status& mine) = 0;

  /// Ranks with the same color, ordered by (key, rank). Collective. The parts must not be used after this object is gone.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// Ends every wait of every rank of the run with ErrorKind::peer and `reason`. From any thread; the communicator is dead afterwards.
  virtual void abort(std::string_view reason) noexcept = 0;

  /// Where the run is, for error messages and flight records: "step", "save", ... and the number of the step. A call of a step has a
  /// deadline; elsewhere one rank may work long for all (tokenising, export), and only a lost or silent rank ends the others' wait.
  virtual void set_place(const char* phase, int64_t step) = 0;
  virtual Traffic traffic() const = 0;
  /// Whether buffers may lie on a device; otherwise the caller brings them to the host.
  virtual bool takes_device_memory() const { return false; }
};

/// One rank: every call is a copy or nothing.
std::unique_ptr<Communicator> single();

template <class T, size_t N>
ConstBuffer bytes_of(std::span<const T, N> values) {
  return {reinterpret_cast<const std::byte*>(values.data()), values.size_bytes(), Memory::host};
}
template <class T, size_t N>
Buffer writable_bytes_of(std::span<T, N> values) {
  return {reinterpret_cast<std::byte*>(values.data()), values.size_bytes(), Memory::host};
}

}  // namespace longlora::dist
