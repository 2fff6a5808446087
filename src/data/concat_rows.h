#pragma once
// data.packing: concat. All documents of a source joined in file order and cut every T tokens. Pure functions of the index.
#include "longlora/data/token_batch.h"
#include "longlora/formats/token_file.h"

namespace longlora {

/// Which rows exist: ceil(N / T) cuts, less those without any target.
class ConcatRows {
 public:
  ConcatRows(const TokenSource&, int64_t tokens_per_row);
  uint64_t size() const { return num_cuts_ - removed_.size(); }
  uint64_t first_token(uint64_t row) const;
  uint64_t num_cuts() const { return num_cuts_; }
  std::span<const uint64_t> removed() const { return removed_; }     // cuts without targets, ascending
  uint64_t padding() const { return padding_; }                      // of the last row, if it stayed

 private:
  uint64_t tokens_per_row_, num_cuts_, padding_ = 0;
  std::vector<uint64_t> removed_;
};

/// Appends the row of tokens [first, first + T) of `source`: ids, labels, document starts, targets, padding.
void append_concat_row(const TokenSource& source, uint64_t first, int64_t tokens_per_row, int32_t padding_id, TokenBatch& batch);

}  // namespace longlora
