#pragma once
// What choices cost, for the search: the one place where rates enter it.
#include "plan/passes.h"
#include "plan/search.h"
#include "plan/shapes.h"

namespace longlora::plan {

/// In FLOPs of plain products per token of the pass.
LayerCosts layer_costs(const Shapes&, const PassShape&);

}  // namespace longlora::plan
