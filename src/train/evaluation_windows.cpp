#include <algorithm>

#include "longlora/train/evaluation.h"

namespace longlora {

std::vector<EvaluationWindow> sliding_windows(uint64_t tokens, uint64_t context, uint64_t stride) {
  std::vector<EvaluationWindow> windows;
  if (tokens < 2) return windows;
  uint64_t scored = 1;  // the first token of a stream has no prediction
  for (uint64_t begin = 0; scored < tokens; begin += stride) {
    const uint64_t end = std::min(begin + context, tokens);
    windows.push_back({begin, end, std::max(scored, begin + 1)});
    scored = end;
  }
  return windows;
}

std::vector<EvaluationWindow> longlora_windows(uint64_t tokens, uint64_t context) {
  constexpr uint64_t kStride = 256;
  std::vector<EvaluationWindow> windows;
  if (tokens <= context) return windows;
  for (uint64_t begin = 0; begin < tokens - context; begin += kStride) windows.push_back({begin, begin + context, begin + 1});
  windows.pop_back();
  return windows;
}

}  // namespace longlora
