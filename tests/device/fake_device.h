#pragma once
// A device without a GPU: LibTorch's PrivateUse1 backend whose memory host code cannot touch, kernels by the emulator. What runs here with
// the right numbers follows no device pointer on the host; what is left for a GPU is LibTorch's CUDA half and nvcc.
#include <ATen/core/Tensor.h>

namespace longlora::fake {

at::Device device();
/// Launches of emulated kernels so far.
int64_t launches();
/// Copies on side queues: enqueued although kernels were launched since the queue last followed the current stream (on a GPU such a copy
/// may run before them), and not yet done.
int64_t stale_copies();
int64_t waiting_copies();
/// Times that the program copied something from the device to the host, and so waited for it.
int64_t reads();

}  // namespace longlora::fake
