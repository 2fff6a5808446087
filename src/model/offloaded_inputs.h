#pragma once
// Inputs of offloaded layers in host memory (docs/memory.md section 6): out during forward, back during backward, on a queue beside the
// computation. On the CPU they are read where they are.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "longlora/ops/accelerator.h"
#include "longlora/ops/arena.h"

namespace longlora {

class OffloadedInputs {
 public:
  /// Rows [first_row, first_row + rows) of a layer's input: all of them, or one block.
  struct Piece {
    int64_t layer, first_row, rows;
  };

  explicit OffloadedInputs(const at::Device&);
  /// Page-locked host memory for all layers of a pass; contents are lost.
  void reserve(int64_t bytes);
  void release();
  int64_t bytes() const { return host_.defined() ? host_.numel() : 0; }

  /// A pass begins: `layers[l]` tells whether layer l is offloaded; inputs are [rows, width].
  void begin(const std::vector<bool>& layers, int64_t rows, int64_t width, const at::TensorOptions&);

  // Forward
  void keep(int64_t layer, int64_t first_row, const at::Tensor& x_RC);
  void let_overwrite();  // what is computed from here on may write over everything kept so far

  // Backward: `pieces` in the order in which they are fetched, brought back through `slots` of the arena's top
  void begin_return(std::vector<Piece> pieces, int64_t slots, Arena&);
  /// The next piece; it must be the one that is named. Stays until it is dropped; the piece after it is brought meanwhile.
  at::Tensor fetch(int64_t layer, int64_t first_row);
  void drop();  // the oldest of those fetched
  /// No slot is used any more, also after a pass that an exception ended.
  void end_return();

 private:
  at::Tensor on_host(const Piece&) const;
  at::Tensor slot_of(size_t piece) const;
  void bring(size_t piece);

  at::Device device_;
  std::unique_ptr<accelerator::SideQueue> side_;  // of a GPU
  at::Tensor host_;                               // bytes
  std::vector<at::Tensor> inputs_;                // by layer, [rows, width] on the host; undefined: not offloaded
  std::vector<Piece> pieces_;
  std::vector<at::Tensor> slots_;  // flat
  size_t brought_ = 0, fetched_ = 0, dropped_ = 0;
};

}  // namespace longlora
