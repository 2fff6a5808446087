#include "model/sequence_context.h"

#include "model/device_bytes.h"

namespace longlora {

void pass_on(const SequenceContext& s, Neighbour to, const at::Tensor& out, at::Tensor& in) {
  const int rank = s.group->rank(), step = to == Neighbour::right ? 1 : -1, first_partner = rank ^ 1;
  const auto send = [&] {
    if (out.defined()) s.group->send(rank + step, const_bytes_of(out), stream_of(out));
  };
  const auto receive = [&] {
    if (in.defined()) s.group->receive(rank - step, bytes_of(in), stream_of(in));
  };
  if (rank + step == first_partner) {
    send();
    receive();
  } else {
    receive();
    send();
  }
}

}  // namespace longlora
