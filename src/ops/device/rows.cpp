#include "longlora/ops/rows.h"

#include "longlora/kernels/cast.h"
#include "ops/device/device_ops.h"
#include "ops/device/launch.h"

namespace longlora::device {

void gather_rows(const at::Tensor& from_MC, const RowList& rows, at::Tensor& to_NC) {
  const at::Tensor index = rows.on(to_NC.device());
  require(kernels::gather_rows(element_type(to_NC), rows.size(), to_NC.size(1), index.data_ptr<int64_t>(), rows_of(from_MC), rows_of(to_NC),
                               stream_of(to_NC)),
          "gather_rows");
}

void scatter_rows(const at::Tensor& from_NC, const RowList& rows, at::Tensor& to_MC) {
  const at::Tensor index = rows.on(to_MC.device());
  require(kernels::scatter_rows(element_type(to_MC), rows.size(), to_MC.size(1), index.data_ptr<int64_t>(), rows_of(from_NC),
                                rows_of(to_MC), stream_of(to_MC)),
          "scatter_rows");
}

}  // namespace longlora::device
