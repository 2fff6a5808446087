#include "longlora/ops/embedding.h"

#include <ATen/Parallel.h>

#include "longlora/ops/vector_math.h"
#include "ops/dispatch.h"

namespace longlora {

void embedding_forward(const at::Tensor& weight_VC, const IntList& list, at::Tensor& x_NC) {
  const std::span<const int32_t> ids = list.host();
  const int64_t vocabulary = weight_VC.size(0), width = weight_VC.size(1);
  for (size_t n = 0; n < ids.size(); ++n)
    LONGLORA_CHECK(ids[n] >= 0 && ids[n] < vocabulary, data,
                   "token id " + std::to_string(ids[n]) + ", expected 0 to " + std::to_string(vocabulary - 1), "token " + std::to_string(n),
                   "tokenise the data with this model's tokenizer");
  if constexpr (kWithKernels) {
    if (!x_NC.is_cpu()) return device::embedding_forward(weight_VC, list, x_NC);
  }
  with_element_type(weight_VC, [&]<class T>(T) {
    const T* weight = weight_VC.const_data_ptr<T>();
    T* x = x_NC.data_ptr<T>();
    at::parallel_for(0, static_cast<int64_t>(ids.size()), row_grain(width), [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        std::memcpy(static_cast<void*>(x + n * x_NC.stride(0)), weight + ids[static_cast<size_t>(n)] * weight_VC.stride(0),
                    static_cast<size_t>(width) * sizeof(T));
    });
  });
}

void embedding_backward(const IntList& list, const at::Tensor& d_x_NC, at::Tensor& d_weight_VC) {
  if constexpr (kWithKernels) {
    if (!d_x_NC.is_cpu()) return device::embedding_backward(list, d_x_NC, d_weight_VC);
  }
  const std::span<const int32_t> ids = list.host();
  constexpr int64_t kColumns = 64;  // a thread's share is a multiple of whole cache lines
  const int64_t width = d_x_NC.size(1), num_slices = (width + kColumns - 1) / kColumns;
  float* d_weight = d_weight_VC.data_ptr<float>();
  with_element_type(d_x_NC, [&]<class T>(T) {
    const T* d_x = d_x_NC.const_data_ptr<T>();
    at::parallel_for(0, num_slices, 1, [&](int64_t first, int64_t last) {
      const int64_t begin = first * kColumns, end = std::min(width, last * kColumns);
      for (size_t n = 0; n < ids.size(); ++n) {
        const T* from = d_x + static_cast<int64_t>(n) * d_x_NC.stride(0) + begin;
        float* to = d_weight + ids[n] * d_weight_VC.stride(0) + begin;
        vec::for_lanes(end - begin,
                       [&](int64_t i, auto lanes) { vec::store(to + i, vec::load(to + i, lanes) + vec::load(from + i, lanes), lanes); });
      }
    });
  });
}

}  // namespace longlora
