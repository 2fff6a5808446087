// longlora-train generate: a few words from a model.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "apps/commands.h"
#include "apps/model_loading.h"
#include "longlora/core/error.h"
#include "longlora/core/philox.h"

namespace longlora::apps {
namespace {

struct GenerateFlags {
  ModelRequest request;
  std::string model, adapter, prompt;
  int64_t max_new_tokens = 64;
  double temperature = 0, top_p = 1;
  uint64_t seed = 42;
};

std::vector<int32_t> by_probability(const float* logits, int64_t vocab) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  return order;
}

/// Nucleus sampling (Holtzman et al. 2020) with one Philox number a token; temperature 0 takes the most likely token.
int32_t choose(const at::Tensor& logits_V, const GenerateFlags& flags, uint32_t position) {
  const at::Tensor contiguous = logits_V.contiguous();
  const float* logits = contiguous.const_data_ptr<float>();
  const int64_t vocab = contiguous.numel();
  if (flags.temperature <= 0) return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
  const std::vector<int32_t> order = by_probability(logits, vocab);
  std::vector<double> weights;
  double total = 0;
  for (int32_t id : order) total += weights.emplace_back(std::exp((logits[id] - logits[order.front()]) / flags.temperature));
  size_t kept = 0;
  double mass = 0;
  while (kept < weights.size() && (kept == 0 || mass < flags.top_p * total)) mass += weights[kept++];
  const PhiloxStream stream{.seed = flags.seed, .purpose = Purpose::generate, .step = position};
  double left = uniform_from(stream.words(0)[0]) * mass;
  for (size_t i = 0; i < kept; ++i) {
    if ((left -= weights[i]) < 0) return order[i];
  }
  return order[kept - 1];
}

int generate(GenerateFlags flags) {
  flags.request.model = flags.model;
  flags.request.adapter = flags.adapter;
  const ReadyModel ready = load_model(flags.request);
  LONGLORA_CHECK(ready.tokenizer != nullptr, missing, "no tokenizer", flags.model, "put tokenizer.json or tokenizer.model into the folder");
  std::vector<int32_t> ids = ready.tokenizer->encode(flags.prompt, {.add_bos = ready.tokenizer->adds_bos()});
  if (ids.empty()) ids.push_back(ready.tokenizer->bos().value_or(ready.tokenizer->eos().value_or(0)));
  const size_t prompt_tokens = ids.size();
  Decoder decoder(*ready.model, static_cast<int64_t>(ids.size()) + flags.max_new_tokens);
  at::Tensor logits_V = decoder.append(ids);
  for (int64_t n = 0; n < flags.max_new_tokens; ++n) {
    const int32_t next = choose(logits_V, flags, static_cast<uint32_t>(n));
    if (ready.tokenizer->eos() == next) break;
    ids.push_back(next);
    if (n + 1 < flags.max_new_tokens) logits_V = decoder.append(std::span(&ids.back(), 1));
  }
  log_info("{} tokens of prompt, {} new", prompt_tokens, ids.size() - prompt_tokens);
  print_out(ready.tokenizer->decode(ids) + "\n");
  return 0;
}

}  // namespace

void add_generate(Program& p) {
  auto flags = std::make_shared<GenerateFlags>();
  CLI::App* command = add_command(p, "generate", "continues a prompt; greedy by default",
                                  "longlora-train generate --model out/merged --prompt \"Emma Woodhouse, handsome,\" --max-new-tokens 40");
  command->add_option("--model", flags->model, "Hugging Face folder")->required();
  command->add_option("--prompt", flags->prompt, "text to continue")->required();
  command->add_option("--adapter", flags->adapter, "PEFT folder to apply");
  command->add_option("--rope-factor", flags->request.rope_factor, "total linear RoPE factor in place of the model's")
      ->check(CLI::PositiveNumber);
  command->add_option("--max-new-tokens", flags->max_new_tokens, "stop after this many")->check(CLI::PositiveNumber);
  command->add_option("--temperature", flags->temperature, "0 is greedy")->check(CLI::NonNegativeNumber);
  command->add_option("--top-p", flags->top_p, "keep the most likely tokens of this mass")->check(CLI::Range(0.0, 1.0));
  command->add_option("--seed", flags->seed, "seed of the sampling");
  command->add_option("--dtype", flags->request.dtype, "compute type")->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  command->add_option("--device", flags->request.device, "where to compute")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command->callback([&p, flags] { p.action = [flags] { return generate(*flags); }; });
}

}  // namespace longlora::apps
