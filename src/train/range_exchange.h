#pragma once
// Block ranges of gradients and weights between ranks, in pieces of bounded size.
#include <vector>

#include "longlora/dist/communicator.h"
#include "longlora/model/parameter.h"
#include "train/block_table.h"

namespace longlora {

/// A message: consecutive segments, or a part of one embedding, which may go as rows.
struct Piece {
  std::vector<BlockTable::Segment> segments;
  bool as_rows = false;  // may be sent as touched rows
  int64_t elements() const;
};

class RangeExchange {
 public:
  explicit RangeExchange(std::vector<Parameter*> trainable);
  const BlockTable& table() const { return table_; }

  /// Gives Parameter::grad of `round.give` to the peer and adds the peer's to `round.keep`.
  void add_from_peer(dist::Communicator&, const HalvingRound&) const;
  enum class Of { gradients, weights };
  /// Every rank has the whole afterwards; `owned[r]`: the range that rank r brings.
  void gather(dist::Communicator&, const std::vector<BlockRange>& owned, Of) const;

 private:
  std::vector<Piece> pieces_of(BlockRange, bool rows_alone) const;
  at::Tensor flat(const BlockTable::Segment&, Of) const;
  at::Tensor packed(const Piece&, Of) const;
  void unpack(const Piece&, const at::Tensor& from, Of) const;
  void add(const Piece&, const at::Tensor& message, int64_t num_rows) const;

  std::vector<Parameter*> trainable_;
  BlockTable table_;
};

}  // namespace longlora
