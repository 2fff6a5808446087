#pragma once
// What choices cost, for the search: the predicted seconds of a layer.
#include "longlora/plan/rates.h"
#include "plan/search.h"

namespace longlora::plan {

/// In seconds of a layer and micro-batch.
LayerCosts layer_costs(const StepShape&, const Rates&);

}  // namespace longlora::plan
