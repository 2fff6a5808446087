#include "longlora/train/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "longlora/core/error.h"
#include "longlora/core/files.h"
#include "longlora/core/json.h"
#include "longlora/core/text.h"
#include "train/svg.h"

namespace longlora {
namespace {

constexpr uint64_t kMaxMetricsBytes = uint64_t{256} << 20;

constexpr std::string_view kStyle =
    "body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}svg{width:100%;max-width:44rem;display:block;margin:.5rem 0}"
    ".grid{stroke:#ddd}.tick{font:11px sans-serif;fill:#444}.title{font:bold 13px sans-serif}"
    "table{border-collapse:collapse}td,th{border:1px solid #bbb;padding:.25rem "
    ".6rem;text-align:right}td:first-child,th:first-child{text-align:left}";

/// Lines of a JSON-lines file; a last line cut by a kill is left out.
std::vector<JsonValue> read_lines(const std::filesystem::path& file) {
  std::vector<JsonValue> values;
  for (const std::string& line : split(read_file(file, kMaxMetricsBytes), '\n')) {
    if (line.empty()) continue;
    try {
      values.push_back(parse_json(line, file.string()));
    } catch (const Error&) {
      continue;
    }
  }
  return values;
}

std::optional<JsonValue> read_optional(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return std::nullopt;
  return parse_json(read_file(file, uint64_t{16} << 20), file.string(), {.max_bytes = size_t{16} << 20});
}

double number_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  return value == nullptr ? std::nan("") : value->number().value_or(std::nan(""));
}

std::string text_of(const JsonValue& object, std::string_view key) {
  const JsonValue* value = object.find(key);
  if (value == nullptr) return "";
  return value->string() != nullptr ? *value->string() : dump_json(*value);
}

Series series_of(const std::vector<JsonValue>& lines, std::string_view key, double factor = 1) {
  Series series{std::string(key), {}};
  for (const JsonValue& line : lines) series.points.emplace_back(number_of(line, "step"), number_of(line, key) * factor);
  return series;
}

std::string training_curves(const std::vector<JsonValue>& lines) {
  struct Row {
    const char *key, *title, *unit;
    double factor;
    bool zero;
  };
  constexpr double kPerGib = 1.0 / (1 << 30);
  const Row rows[] = {{"loss", "Loss", "nats per token", 1, false},
                      {"lr", "Learning rate", "rate", 1, true},
                      {"grad_norm", "Gradient norm", "norm", 1, true},
                      {"tokens_per_second", "Speed", "tokens per second", 1, true},
                      {"memory_bytes", "Memory in use", "GiB", kPerGib, true}};
  std::string html;
  for (const Row& row : rows) {
    html += svg_chart({.title = row.title,
                       .x_label = "step",
                       .y_label = row.unit,
                       .series = {series_of(lines, row.key, row.factor)},
                       .y_from_zero = row.zero});
  }
  return html;
}

/// Perplexities of several labelled models: one row a label, one column a context.
std::string evaluation_section(const JsonValue& evaluation) {
  const JsonValue::Array* entries = evaluation.array();
  if (entries == nullptr) return "";
  std::set<int64_t> contexts;
  std::vector<Series> series;
  for (const JsonValue& entry : *entries) {
    Series s{text_of(entry, "label"), {}};
    const JsonValue* results = entry.find("contexts");
    if (results == nullptr || results->array() == nullptr) continue;
    for (const JsonValue& r : *results->array()) {
      s.points.emplace_back(number_of(r, "context"), number_of(r, "perplexity"));
      contexts.insert(static_cast<int64_t>(number_of(r, "context")));
    }
    series.push_back(std::move(s));
  }
  std::string table = "<table><tr><th>perplexity at</th>";
  for (int64_t context : contexts) table += fmt::format("<th>{}</th>", context);
  for (const Series& s : series) {
    table += "</tr>\n<tr><td>" + html_escape(s.label) + "</td>";
    for (int64_t context : contexts) {
      std::string cell = "-";
      for (const auto& [x, y] : s.points) cell = static_cast<int64_t>(x) == context ? fmt::format("{:.2f}", y) : cell;
      table += "<td>" + cell + "</td>";
    }
  }
  return "<h2>Perplexity before and after</h2>\n" + table + "</tr></table>\n" +
         svg_chart({.title = "Perplexity by context",
                    .x_label = "context in tokens",
                    .y_label = "perplexity",
                    .series = series,
                    .x_axis = Axis::log2,
                    .markers = true});
}

std::string validation_section(const std::vector<JsonValue>& lines) {
  std::vector<Series> series;
  for (const JsonValue& line : lines) {
    const JsonValue* results = line.find("contexts");
    if (results == nullptr || results->array() == nullptr) continue;
    for (const JsonValue& r : *results->array()) {
      const std::string label = text_of(r, "context") + " tokens";
      auto it = std::find_if(series.begin(), series.end(), [&](const Series& s) { return s.label == label; });
      if (it == series.end()) it = series.insert(series.end(), Series{label, {}});
      it->points.emplace_back(number_of(line, "step"), number_of(r, "perplexity"));
    }
  }
  if (series.empty()) return "";
  return "<h2>Validation during training</h2>\n" +
         svg_chart({.title = "Validation perplexity", .x_label = "step", .y_label = "perplexity", .series = series, .markers = true});
}

std::string summary_section(const std::vector<JsonValue>& lines, const std::optional<JsonValue>& environment) {
  double tokens = 0, seconds = 0, peak = 0;
  for (const JsonValue& line : lines) {
    tokens += number_of(line, "tokens");
    seconds += number_of(line, "seconds");
    peak = std::max(peak, number_of(line, "memory_peak_bytes"));
  }
  const auto row = [](std::string_view name, const std::string& value) {
    return "<tr><td>" + std::string(name) + "</td><td>" + html_escape(value) + "</td></tr>\n";
  };
  std::string html = "<table>\n" + row("steps", text_of(lines.back(), "step")) + row("tokens", fmt::format("{:.0f}", tokens)) +
                     row("training time", fmt::format("{:.0f} s", seconds)) +
                     row("speed", fmt::format("{:.0f} tokens/s", tokens / seconds)) +
                     row("last loss", fmt::format("{:.4f}", number_of(lines.back(), "loss"))) +
                     row("peak memory, measured", human_bytes(static_cast<uint64_t>(peak)));
  if (environment) {
    html += row("peak memory, planned", human_bytes(static_cast<uint64_t>(number_of(*environment, "memory_plan_bytes"))));
    html += row("memory policy", text_of(*environment, "memory_policy")) + row("processor", text_of(*environment, "cpu"));
    html += row("program", text_of(*environment, "version")) + row("started", text_of(*environment, "started"));
  }
  return html + row("hash of the run", text_of(lines.back(), "hash")) + "</table>\n";
}

double median_of(const std::vector<JsonValue>& lines, std::string_view key) {
  std::vector<double> values;
  for (const JsonValue& line : lines)
    if (const double value = number_of(line, key); std::isfinite(value)) values.push_back(value);
  if (values.empty()) return std::nan("");
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

/// What plan.json expected beside what metrics.jsonl saw.
std::string plan_section(const JsonValue& plan, const std::vector<JsonValue>& lines) {
  const JsonValue *seconds = plan.find("step_seconds"), *peak = plan.find("peak"), *rates = plan.find("rates");
  if (seconds == nullptr || peak == nullptr || rates == nullptr) return "";
  const auto row = [](std::string_view name, double planned, double measured, double per, int digits) {
    const auto cell = [&](double value) { return std::isfinite(value) ? fmt::format("{:.{}f}", value / per, digits) : std::string("-"); };
    const double off = 100 * (measured / planned - 1);
    return fmt::format("<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n", name, cell(planned), cell(measured),
                       std::isfinite(off) ? fmt::format("{:+.1f} %", off) : "-");
  };
  std::string html = "<h2>Planned and measured</h2>\n<table><tr><th></th><th>planned</th><th>measured</th><th>difference</th></tr>\n";
  html += row("seconds a step, median", number_of(*seconds, "total"), median_of(lines, "seconds"), 1, 3);
  html += row("tokens a second, median", number_of(plan, "tokens_per_second"), median_of(lines, "tokens_per_second"), 1, 0);
  return html + "</table>\n<p>Largest in " + html_escape(text_of(*peak, "moment")) +
         "; policy: " + html_escape(text_of(plan, "policy_summary")) + "; rates: " + html_escape(text_of(*rates, "source")) + ".</p>\n";
}

/// Planned against measured, by component.
std::string memory_section(const JsonValue& memory) {
  const JsonValue::Array* components = memory.find("components") != nullptr ? memory.find("components")->array() : nullptr;
  const JsonValue* total = memory.find("total");
  if (components == nullptr || total == nullptr) return "";
  const auto bytes = [](const JsonValue& row, std::string_view key) {
    const double value = number_of(row, key);
    return std::isnan(value) ? std::string("-") : human_bytes(static_cast<uint64_t>(std::max(0.0, value)));
  };
  const auto line = [&](const JsonValue& row) {
    const double percent = number_of(row, "difference_percent");
    return "<tr><td>" + html_escape(text_of(row, "name")) + "</td><td>" + bytes(row, "planned_bytes") + "</td><td>" +
           bytes(row, "measured_bytes") + "</td><td>" + (std::isnan(percent) ? "-" : fmt::format("{:+.1f} %", percent)) + "</td></tr>\n";
  };
  std::string html = "<h2>Memory of a step</h2>\n<table><tr><th>tensors</th><th>planned</th><th>measured</th><th>difference</th></tr>\n";
  for (const JsonValue& row : *components)
    if (number_of(row, "planned_bytes") > 0 || number_of(row, "measured_bytes") > 0) html += line(row);
  return html + line(*total) + "</table>\n";
}

}  // namespace

std::filesystem::path write_report(const std::filesystem::path& run) {
  LONGLORA_CHECK(std::filesystem::exists(run / "metrics.jsonl"), missing, "metrics.jsonl is not there", run.string(),
                 "give the output_dir of a training run");
  const std::vector<JsonValue> lines = read_lines(run / "metrics.jsonl");
  LONGLORA_CHECK(!lines.empty(), data, "no step is recorded", (run / "metrics.jsonl").string(), "train at least one step");
  std::string html = "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>" + html_escape(run.filename().string()) +
                     "</title><style>" + std::string(kStyle) + "</style></head><body>\n<h1>Training report: " +
                     html_escape(std::filesystem::weakly_canonical(run).filename().string()) + "</h1>\n";
  html += summary_section(lines, read_optional(run / "environment.json"));
  if (const auto plan = read_optional(run / "plan.json")) html += plan_section(*plan, lines);
  if (const auto memory = read_optional(run / "memory.json")) html += memory_section(*memory);
  if (const auto evaluation = read_optional(run / "evaluation.json")) html += evaluation_section(*evaluation);
  if (std::filesystem::exists(run / "evaluation.jsonl")) html += validation_section(read_lines(run / "evaluation.jsonl"));
  html += "<h2>Training</h2>\n" + training_curves(lines) + "</body></html>\n";
  write_file_atomic(run / "report.html", html);
  return run / "report.html";
}

}  // namespace longlora
