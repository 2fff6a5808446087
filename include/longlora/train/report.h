#pragma once
// report.html of a run: one self-contained file with SVG curves and tables, readable without network and in black and white.
#include <filesystem>

namespace longlora {

/// Reads metrics.jsonl, environment.json, plan.json and memory.json (planned against measured), exit.json, evaluation.jsonl and an
/// optional evaluation.json (list of {"label", "contexts": [{"context", "perplexity", ...}]}) of the run folder and writes report.html.
/// Missing metrics.jsonl: ErrorKind::missing.
std::filesystem::path write_report(const std::filesystem::path& run_folder);

}  // namespace longlora
