#pragma once
// The calls of a communicator and the header that goes before the data of each.
#include <array>
#include <cstdint>
#include <string_view>

namespace longlora::dist {

enum class Operation : uint8_t { none, exchange, send, receive, all_gather, broadcast, sum, max, barrier, split };
inline constexpr std::array<std::string_view, 10> kOperationNames = {"nothing",   "exchange", "send", "receive", "all_gather",
                                                                     "broadcast", "sum",      "max",  "barrier", "split"};
inline constexpr size_t kOperations = kOperationNames.size();
/// A literal: ends with a zero.
inline std::string_view name_of(Operation operation) { return kOperationNames[static_cast<size_t>(operation)]; }

/// A receive is answered by a send; all other calls by themselves.
inline Operation on_the_wire(Operation operation) { return operation == Operation::receive ? Operation::send : operation; }

/// Precedes the data of every message between two ranks, compared field by field with what the receiver expects. Little-endian.
struct DataHeader {
  static constexpr uint64_t kMagic = 0x3144524c4c;  // "LLRD1"
  uint64_t magic = kMagic;
  uint64_t channel = 0;    // which communicator
  uint64_t sequence = 0;   // collectives: calls of the communicator; exchange and send: messages of the pair on it
  uint64_t operation = 0;  // as on the wire
  uint64_t bytes = 0;
  bool operator==(const DataHeader&) const = default;
};
static_assert(sizeof(DataHeader) == 40);

}  // namespace longlora::dist
