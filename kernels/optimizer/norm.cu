// The gradient norm in the blocks and the tree of the CPU, and what follows from it for the update; nothing returns to the host.
#include "common/vectors.cuh"
#include "longlora/kernels/optimizer.h"

namespace longlora::kernels {
namespace {

template <bool kAligned>
struct SumOfSquares {
  struct Params {
    const float* gradient;
    double* blocks;
    int64_t count;
  };
  static constexpr int kThreads = 256;
  static constexpr int kMinBlocks = 4;

  LONGLORA_DEVICE static void run(const Params& p) {
    const int64_t begin = int64_t{device::block_index()} * kNormBlock, count = p.count - begin;
    double lanes[4] = {};  // four chains of additions
    for (int64_t i = int64_t{device::thread_index()} * 4; i < kNormBlock && i < count; i += kThreads * 4) {
      whole_or_part<kAligned, 4>(count - i, [&]<bool kWhole>() {
        float g[4];
        load_floats<float, kWhole>(p.gradient + begin + i, count - i, g);
        LONGLORA_UNROLL
        for (int k = 0; k < 4; ++k) lanes[k] += static_cast<double>(g[k]) * static_cast<double>(g[k]);
      });
    }
    const double sum = block_sum<kThreads>((lanes[0] + lanes[2]) + (lanes[1] + lanes[3]), device::shared_memory<double>());
    if (device::thread_index() == 0) device::store(p.blocks + device::block_index(), sum);
  }
};

/// One pass over the tree: 2,048 neighbouring nodes of a level become one, eleven levels higher, at the place of their first.
struct AddNodes {
  struct Params {
    double* nodes;
    int64_t count, stride;  // nodes of this level, and how far they lie apart
    double* norm;           // of the last pass: receives the root
  };
  static constexpr int kThreads = 1024;
  static constexpr int kMinBlocks = 1;
  static constexpr int64_t kNodes = 2 * kThreads;

  LONGLORA_DEVICE static void run(const Params& p) {
    double* shared = device::shared_memory<double>();
    const int64_t begin = int64_t{device::block_index()} * kNodes;
    double* nodes = p.nodes + begin * p.stride;
    int count = static_cast<int>(p.count - begin < kNodes ? p.count - begin : kNodes);
    const int thread = device::thread_index();
    for (int i = thread; i < count; i += kThreads) device::store(shared + i, device::load(nodes + i * p.stride));
    for (; count > 1; count = (count + 1) / 2) {
      device::sync_block();
      double sum = 0;
      if (2 * thread < count) sum = device::load(shared + 2 * thread);
      if (2 * thread + 1 < count) sum += device::load(shared + 2 * thread + 1);
      device::sync_block();
      if (2 * thread < count) device::store(shared + thread, sum);
    }
    if (thread != 0) return;
    const double root = p.count > 0 ? device::load(shared) : 0.0;
    if (p.norm != nullptr)
      device::store(p.norm, device::sqrt(root));
    else
      device::store(nodes, root);
  }
};

struct ClipControl {
  struct Params {
    const double* norm;
    double max_norm;
    UpdateControl* control;
  };
  static constexpr int kThreads = 32;
  static constexpr int kMinBlocks = 1;

  LONGLORA_DEVICE static void run(const Params& p) {
    if (device::thread_index() != 0) return;
    const double norm = device::load(p.norm);
    const bool finite = norm - norm == 0;
    const bool clips = finite && p.max_norm != 0 && norm > p.max_norm;
    device::store(&p.control->clip, clips ? static_cast<float>(p.max_norm / norm) : 1.0f);
    device::store(&p.control->finite, int32_t{finite});
  }
};

}  // namespace

Launch sum_of_squares(const float* gradient, int64_t count, double* blocks, Stream stream) {
  const Arguments a = Arguments().size("count", count).pointer("gradient", gradient, 4).pointer("blocks", blocks, 8);
  if (!a.ok()) return a.answer;
  const int64_t shared = SumOfSquares<true>::kThreads / device::kWarp * 8;
  if (on_16_bytes(gradient)) return device::launch<SumOfSquares<true>>(norm_blocks(count), shared, {gradient, blocks, count}, stream);
  return device::launch<SumOfSquares<false>>(norm_blocks(count), shared, {gradient, blocks, count}, stream);
}

Launch gradient_norm(double* blocks, int64_t num_blocks, double* norm, Stream stream) {
  Arguments a;
  a.require(num_blocks >= 0, "num_blocks", "is negative").pointer("norm", norm, 8);
  if (num_blocks > 0) a.pointer("blocks", blocks, 8);
  if (!a.ok()) return a.answer;
  int64_t count = num_blocks, stride = 1;
  for (;;) {
    const int64_t parents = (count + AddNodes::kNodes - 1) / AddNodes::kNodes;
    const bool last = parents <= 1;
    const Launch l =
        device::launch<AddNodes>(last ? 1 : parents, AddNodes::kNodes * 8, {blocks, count, stride, last ? norm : nullptr}, stream);
    if (!l.ok() || last) return l;
    count = parents;
    stride *= AddNodes::kNodes;
  }
}

Launch clip_control(const double* norm, double max_norm, UpdateControl* control, Stream stream) {
  const Arguments a = Arguments()
                          .pointer("norm", norm, 8)
                          .require(max_norm >= 0, "max_norm", "must be positive, or 0 for no clipping")
                          .pointer("control", control, 4);
  return a.ok() ? device::launch<ClipControl>(1, 0, {norm, max_norm, control}, stream) : a.answer;
}

}  // namespace longlora::kernels
