#include "config/key_index.h"

#include <algorithm>
#include <set>

#include "config/fields.h"
#include "longlora/core/text.h"

namespace longlora {

namespace {

std::string_view leaf_of(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? key : key.substr(dot + 1);
}

std::string_view section_of(std::string_view key) {
  const size_t dot = key.rfind('.');
  return dot == std::string_view::npos ? std::string_view{} : key.substr(0, dot);
}

std::vector<std::string> make_sections() {
  std::set<std::string> sections;
  for (const std::string& key : all_keys())
    for (std::string_view section = section_of(key); !section.empty(); section = section_of(section)) sections.emplace(section);
  return {sections.begin(), sections.end()};
}

/// Names of one or two letters resemble everything: an edit may change at most all but one letter.
size_t distance_limit(std::string_view name) { return std::min<size_t>(2, name.empty() ? 0 : name.size() - 1); }

/// All of `candidates` whose last part is nearest to `name`.
std::vector<std::string> nearest_leaves(std::string_view name, const std::vector<std::string>& candidates) {
  std::vector<std::string> best;
  size_t least = distance_limit(name) + 1;
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(name, leaf_of(candidate));
    if (distance < least) best.clear(), least = distance;
    if (distance == least && least <= distance_limit(name)) best.push_back(candidate);
  }
  return best;
}

}  // namespace

const std::vector<std::string>& all_keys() {
  static const std::vector<std::string> keys = [] {
    std::vector<std::string> result;
    TrainConfig config;
    visit_fields([&](const Row& row, const auto&, const auto&) { result.emplace_back(row.key); }, config);
    return result;
  }();
  return keys;
}

const std::vector<std::string>& all_sections() {
  static const std::vector<std::string> sections = make_sections();
  return sections;
}

bool is_key(std::string_view name) { return std::find(all_keys().begin(), all_keys().end(), name) != all_keys().end(); }
bool is_section(std::string_view name) { return std::find(all_sections().begin(), all_sections().end(), name) != all_sections().end(); }

std::vector<std::string> guesses_for(std::string_view section, std::string_view name) {
  std::vector<std::string> everywhere = all_keys(), here, elsewhere;
  everywhere.insert(everywhere.end(), all_sections().begin(), all_sections().end());
  for (const std::string& candidate : everywhere) {
    if (candidate == name && name.find('.') != std::string_view::npos) return {candidate};   // a.b: written where a section belongs
    if (section_of(candidate) == section) here.push_back(candidate);
    if (leaf_of(candidate) == name) elsewhere.push_back(candidate);
  }
  if (!elsewhere.empty()) return elsewhere;
  if (std::vector<std::string> near_here = nearest_leaves(name, here); !near_here.empty()) return near_here;
  if (const auto dotted = nearest(name, everywhere, 2); dotted && name.find('.') != std::string_view::npos) return {*dotted};
  return nearest_leaves(name, everywhere);
}

}  // namespace longlora
