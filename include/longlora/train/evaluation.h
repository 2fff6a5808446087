#pragma once
// Sliding-window perplexity over a token stream (docs/data.md section 5).
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "longlora/dist/communicator.h"
#include "longlora/formats/token_file.h"
#include "longlora/model/llama.h"

namespace longlora {

/// One window: tokens [begin, end) are read, targets (tokens to be predicted) [scored_from, end) count.
struct EvaluationWindow {
  uint64_t begin = 0, end = 0, scored_from = 0;
};

/// Default rule: windows of `context` tokens start at 0, stride, 2 stride, ...; the first scores all its targets, later ones the tokens no
/// earlier window scored; the last may be shorter. Every token but the first is scored exactly once.
std::vector<EvaluationWindow> sliding_windows(uint64_t tokens, uint64_t context, uint64_t stride);
/// LongLoRA's rule: starts 0, 256, 512, ... < tokens - context, the last start dropped; every window scores its context - 1 targets.
std::vector<EvaluationWindow> longlora_windows(uint64_t tokens, uint64_t context);

enum class WindowRule { sliding, longlora };

struct PerplexityOptions {
  int64_t context = 0, stride = 0;  // tokens; stride below context; 0: context / 2
  uint64_t max_tokens = 0;          // first N tokens of every source; 0: all
  WindowRule rule = WindowRule::sliding;
  bool document_mask = false;  // attention and positions restart at documents
  AttentionSettings attention;
  std::function<bool()> stop_requested;  // polled between windows; true ends with `interrupted`
  std::function<void(int64_t done, int64_t total)> progress;
  dist::Communicator* ranks = nullptr;  // take turns with the windows; every rank returns the same result. All ranks call, sources equal
};

struct PerplexityResult {
  int64_t context = 0, windows = 0, tokens = 0;  // tokens: scored targets
  double nll = 0, perplexity = 0;                // nll: sum; with the longlora rule perplexity is exp(mean over windows of window means)
  bool interrupted = false;
};

/// Sum over all windows of all sources in order, whatever rank computed them. Tokens that begin a later document are not targets. No target
/// at all: ErrorKind::data.
PerplexityResult perplexity(LlamaModel&, const std::vector<const TokenSource*>&, const PerplexityOptions&);

/// {"context": 512, "windows": 3, "tokens": 1535, "nll": 1.5, "perplexity": 2.0}
std::string to_json(const PerplexityResult&);

}  // namespace longlora
