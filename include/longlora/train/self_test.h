#pragma once
// A check of the installed program on this machine: attention against a loop over the definition.
#include <string>

namespace longlora {

struct SelfTest {
  bool passed = false;
  double largest_error = 0, tolerance = 0;
  double seconds = 0;
};
/// S2 attention forward, fp32, GQA, ragged length, against fp64 loops that share no code with it.
SelfTest attention_self_test();

}  // namespace longlora
