#include "longlora/kernels/rope.h"

#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {

void rotate(const RopeTable& table, const IntList& positions, int64_t first_row, const at::Tensor& x_NHD, at::Tensor& y_NHD,
            Rotation rotation) {
  const at::Device where = x_NHD.device();
  const at::Tensor values = table.on(where), rows = positions.part(first_row, x_NHD.size(0)).on(where);
  const kernels::Rope p{.type = element_type(x_NHD),
                        .rows = x_NHD.size(0),
                        .num_heads = x_NHD.size(1),
                        .head_size = x_NHD.size(2),
                        .row_stride = x_NHD.stride(0),
                        .head_stride = x_NHD.stride(1),
                        .backward = rotation == Rotation::backward};
  require(kernels::rope_copy(p, x_NHD.data_ptr(), y_NHD.data_ptr(), y_NHD.stride(0), y_NHD.stride(1), values.data_ptr<float>(),
                             rows.data_ptr<int32_t>(), stream_of(x_NHD)),
          "rope");
}

}  // namespace longlora::device
