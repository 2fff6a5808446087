#pragma once
#include "longlora/optim/optimizer.h"

namespace longlora {

/// gradient_norm of gradients on a device: waits for it.
double device_norm(const std::vector<Parameter*>&);

/// An open gate with a clip factor of the host's.
UpdateGate gate_with(const std::vector<Parameter*>&, double clip);

}  // namespace longlora
