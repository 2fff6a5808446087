#pragma once
// state.json: every key known, none missing, canonical order (docs/checkpoint.md).
#include <string>
#include <string_view>

#include "longlora/checkpoint/train_state.h"

namespace longlora {

std::string print_state(const TrainState&);
/// ErrorKind::data naming the key; another format version: ErrorKind::mismatch naming both.
TrainState parse_state(std::string_view text, std::string_view source);

}  // namespace longlora
