// longlora-train eval perplexity: sliding-window perplexity at given lengths.
#include <fmt/format.h>
#include <unistd.h>

#include "apps/agent_store.h"
#include "apps/commands.h"
#include "apps/model_loading.h"
#include "longlora/config/scalar_text.h"
#include "longlora/core/error.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "longlora/data/dataset.h"
#include "longlora/train/environment.h"
#include "longlora/train/evaluation.h"
#include "longlora/train/readers.h"

namespace longlora::apps {
namespace {

struct EvalFlags {
  ModelRequest request;
  std::string model, adapter, data, format = "auto", attention = "full", compat;
  std::vector<std::string> contexts;
  std::vector<int64_t> strides;
  int64_t window = 0, group = 0;
  uint64_t max_tokens = 0;
  bool document_mask = false, json = false;
};

/// Words with commas between them, in the order given.
std::vector<int64_t> contexts_of(const std::vector<std::string>& texts) {
  std::vector<int64_t> contexts;
  for (const std::string& text : texts)
    for (const std::string& word : split(text, ',')) contexts.push_back(size_of_flag(word, Unit::tokens, "--context"));
  return contexts;
}

/// Tokens between the windows of context number `index`; 0: half the context.
int64_t stride_of(const EvalFlags& flags, size_t index) {
  if (flags.strides.empty()) return 0;
  return flags.strides.size() == 1 ? flags.strides.front() : flags.strides[index];
}

AttentionSettings attention_of(const EvalFlags& flags, const ReadyModel& ready) {
  if (flags.attention == "full") return {.kind = AttentionKind::full};
  const int64_t group = flags.group > 0 ? flags.group : ready.trained_group;
  LONGLORA_CHECK(group > 0, config, "the model does not say which group it was trained with", flags.model,
                 "give --group N, or --attention full");
  const AttentionKind kind = ready.adapter && ready.adapter->attention ? *ready.adapter->attention : AttentionKind::s2;
  return {.kind = kind == AttentionKind::full ? AttentionKind::s2 : kind, .group = group};
}

std::unique_ptr<Dataset> open_data(const EvalFlags& flags, const ReadyModel& ready, int64_t context) {
  DatasetOptions options{.sequence_length = context, .vocab_size = ready.base->config.vocab_size, .tokenizer = ready.tokenizer.get()};
  options.data.sequence_length = context;
  options.tokenize_threads = compute_threads();
  if (ready.tokenizer && ready.tokenizer->eos()) options.eos = *ready.tokenizer->eos();
  if (!options.eos && !ready.base->config.eos_tokens.empty()) options.eos = ready.base->config.eos_tokens.front();
  DataEntry entry{.path = flags.data, .format = flags.compat.empty() || flags.format != "auto" ? flags.format : "raw_uint16"};
  options.data.train = {entry};
  return std::make_unique<Dataset>(std::vector<DataEntry>{entry}, options);
}

/// A wrong tokenizer shows itself in the first words.
void show_start(const ReadyModel& ready, const TokenSource& source) {
  if (!ready.tokenizer || source.num_tokens() == 0) return;
  std::vector<int32_t> ids(std::min<uint64_t>(24, source.num_tokens()));
  source.read(0, ids);
  log_info("the data starts with: {}", escape(ready.tokenizer->decode(ids), 160));
}

void show_progress(int64_t context, int64_t done, int64_t total) {
  if (::isatty(STDERR_FILENO) == 0) return;
  const std::string text = fmt::format("\rcontext {}: window {}/{}{}", context, done, total, done == total ? "\r\x1b[K" : "");
  [[maybe_unused]] const ssize_t ignored = ::write(STDERR_FILENO, text.data(), text.size());
}

std::string as_json(const EvalFlags& flags, const ReadyModel& ready, const Dataset& data, const std::vector<PerplexityResult>& results) {
  std::string contexts;
  for (const PerplexityResult& r : results) contexts += (contexts.empty() ? "" : ", ") + to_json(r);
  return fmt::format(
      "{{\"model\": {}, \"adapter\": {}, \"attention\": {}, \"rope\": {}, \"rope_factor\": {}, \"data\": {}, \"data_sha256\": {}, "
      "\"tokenizer_sha256\": {}, \"window_rule\": {}, \"max_tokens\": {}, \"contexts\": [{}]}}\n",
      json_quote(flags.model), json_quote(flags.adapter), json_quote(flags.attention), json_quote(ready.rope_text()),
      json_number(ready.rope.factor), json_quote(flags.data), json_quote(to_hex(data.digest())),
      json_quote(ready.tokenizer ? to_hex(ready.tokenizer->digest()) : ""), json_quote(flags.compat.empty() ? "sliding" : "longlora"),
      flags.max_tokens, contexts);
}

std::string as_text(const EvalFlags& flags, const ReadyModel& ready, const std::vector<PerplexityResult>& results) {
  std::string text = fmt::format("{}{}: {} attention, RoPE {}, {}\n", flags.model, flags.adapter.empty() ? "" : " + " + flags.adapter,
                                 flags.attention, ready.rope_text(), flags.data);
  text += flags.max_tokens > 0 ? fmt::format("the first {} tokens", flags.max_tokens) : std::string("all tokens");
  text += flags.compat.empty() ? ", every token scored once\n" : ", LongLoRA's windows (the original's 2.71828 for e differs by < 1e-5)\n";
  text += fmt::format("{:>10} {:>9} {:>10} {:>12}\n", "context", "windows", "tokens", "perplexity");
  for (const PerplexityResult& r : results)
    text += fmt::format("{:>10} {:>9} {:>10} {:>12.4f}\n", r.context, r.windows, r.tokens, r.perplexity);
  return text;
}

/// What all ranks of one evaluation must have in common.
std::string described(const EvalFlags& f) {
  std::string text = fmt::format("eval {} {} {} {} {} {} {} {} {} {} {}", f.model, f.adapter, f.data, f.format, f.window, f.attention,
                                 f.group, f.compat, f.max_tokens, f.request.dtype, f.document_mask);
  for (const auto& context : f.contexts) text += fmt::format(" {}", context);
  for (const auto& stride : f.strides) text += fmt::format(" /{}", stride);
  return text;
}

int perplexity_command(EvalFlags flags, int threads) {
  std::vector<int64_t> contexts = contexts_of(flags.contexts);
  if (flags.window > 0) contexts = {flags.window};
  LONGLORA_CHECK(!contexts.empty(), usage, "no context given", "--context", "write for example --context 512,1024");
  LONGLORA_CHECK(flags.strides.size() <= 1 || flags.strides.size() == contexts.size(), usage,
                 fmt::format("{} strides for {} contexts", flags.strides.size(), contexts.size()), "--stride",
                 "give one stride, or one for every context");
  LONGLORA_CHECK(flags.compat.empty() || flags.strides.empty(), usage, "--compat longlora has its own stride of 256", "--stride",
                 "leave --stride out");
  flags.request.model = flags.model;
  flags.request.adapter = flags.adapter;
  flags.request.longest = *std::max_element(contexts.begin(), contexts.end());
  const std::unique_ptr<dist::Communicator> ranks = join_readers(described(flags), flags.request.device, threads, connect_agent_store);
  const bool is_root = ranks->rank() == 0;
  ranks->set_place("evaluation", 0);
  const ReadyModel ready = load_model(flags.request);
  const std::unique_ptr<Dataset> data = open_data(flags, ready, flags.request.longest);
  std::vector<const TokenSource*> sources;
  for (uint64_t i = 0; i < data->num_sources(); ++i) sources.push_back(&data->tokens(i));
  if (is_root) show_start(ready, *sources.front());
  std::vector<PerplexityResult> results;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const int64_t context = contexts[i];
    PerplexityOptions options{.context = context, .stride = stride_of(flags, i), .max_tokens = flags.max_tokens};
    options.rule = flags.compat.empty() ? WindowRule::sliding : WindowRule::longlora;
    options.document_mask = flags.document_mask;
    options.attention = attention_of(flags, ready);
    options.ranks = ranks.get();
    if (is_root) options.progress = [context](int64_t done, int64_t total) { show_progress(context, done, total); };
    results.push_back(perplexity(*ready.model, sources, options));
  }
  if (is_root) print_out(flags.json ? as_json(flags, ready, *data, results) : as_text(flags, ready, results));
  return 0;
}

void add_perplexity(Program& p, CLI::App& eval) {
  auto flags = std::make_shared<EvalFlags>();
  CLI::App* command = eval.add_subcommand("perplexity", "sliding-window perplexity of a model on a text");
  command->footer("Example:\n  longlora-train eval perplexity --model out/merged --data emma.txt --context 512,4k --json");
  command->fallthrough();
  command->add_option("--model", flags->model, "Hugging Face folder or .gguf file")->required();
  command->add_option("--data", flags->data, "text, jsonl, token file or raw uint16 .bin")->required();
  command->add_option("--context", flags->contexts, "context lengths in tokens, comma list; 4k = 4096");
  command->add_option("--format", flags->format, "format of the data")
      ->check(CLI::IsMember({"auto", "text", "jsonl", "tokens", "llmc", "raw_uint16"}));
  command->add_option("--window", flags->window, "one context length (same as --context N)")->check(CLI::PositiveNumber);
  command->add_option("--stride", flags->strides, "tokens between windows, one or one for every context (default: half the context)")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command->add_option("--adapter", flags->adapter, "PEFT folder to apply");
  command->add_option("--attention", flags->attention, "full, or as_trained (groups)")->check(CLI::IsMember({"full", "as_trained"}));
  command->add_option("--group", flags->group, "group of as_trained in tokens, when the model does not say")->check(CLI::PositiveNumber);
  command->add_option("--rope-factor", flags->request.rope_factor, "total linear RoPE factor in place of the model's")
      ->check(CLI::PositiveNumber);
  command->add_option("--compat", flags->compat, "longlora: its windows, its mean of means, its raw uint16 data")
      ->check(CLI::IsMember({"longlora"}));
  command->add_option("--max-tokens", flags->max_tokens, "only the first N tokens of each file");
  command->add_option("--dtype", flags->request.dtype, "compute type")->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  command->add_option("--device", flags->request.device, "where to compute")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  command->add_flag("--document-mask", flags->document_mask, "attention and positions restart at each document");
  command->add_flag("--json", flags->json, "machine form");
  command->callback([&p, flags] { p.action = [&p, flags] { return perplexity_command(*flags, p.globals.threads); }; });
}

}  // namespace

void add_eval(Program& p) {
  CLI::App* command =
      add_command(p, "eval", "measures a model", "longlora-train eval perplexity --model out/merged --data emma.txt --context 512,4k");
  command->require_subcommand(1);
  add_perplexity(p, *command);
  CLI::App* passkey = command->add_subcommand("passkey", "passkey retrieval (not in this version)");
  passkey->footer("Example:\n  longlora-train eval perplexity --model out/merged --data emma.txt --context 4k");
  passkey->allow_extras();
  passkey->callback([&p] {
    p.takes_unknown = true;
    p.action = []() -> int { fail(ErrorKind::usage, "eval passkey is not in this version", "command line", "use eval perplexity"); };
  });
}

}  // namespace longlora::apps
