#include "longlora/kernels/dropout.h"

#include "longlora/core/philox.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {

void apply_dropout(const LoraDropout& d, uint8_t site, int64_t first_row, const at::Tensor& x_NI, at::Tensor& out_NI,
                   Accumulate accumulate) {
  const kernels::Dropout shape{
      .type = element_type(x_NI),
      .rows = x_NI.size(0),
      .width = x_NI.size(1),
      .tokens = d.tokens,
      .first_row = first_row,
      .drop_probability = static_cast<float>(d.drop_probability),
      .keep_scale = static_cast<float>(1.0 / (1.0 - d.drop_probability)),
      .seed = d.seed,
      .place = PhiloxStream{.seed = d.seed, .purpose = Purpose::lora_dropout, .site = site, .layer = d.layer}.place(),
      .step = d.step,
      .accumulate = accumulate == Accumulate::yes};
  require(kernels::dropout(shape, rows_of(x_NI), rows_of(out_NI), d.global_rows.data(), static_cast<int64_t>(d.global_rows.size()),
                           stream_of(x_NI)),
          "dropout");
}

}  // namespace longlora::device
