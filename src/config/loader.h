#pragma once
// Applies sources to a configuration in order of precedence and remembers where every value came from.

#include <map>
#include <set>
#include <string>

#include "config/node.h"

namespace longlora {

class Loader {
 public:
  explicit Loader(Issues& issues) : issues_(issues) {}

  /// A file or preset; places are kept, `origin` (when not empty) names the source instead of the place.
  void apply_file(const Node& root, const std::string& origin = {});
  /// One `key=value` from outside a file.
  void apply_value(const std::string& key, const std::string& value, const FilePlace& place, const std::string& origin);
  /// Values of later layers replace values that exclude them (group size and ratio, steps and epochs) in earlier ones.
  void begin_layer() { ++layer_; }

  const TrainConfig& config() const { return config_; }
  Origins origins() const;                              // of every key, "default" included
  FilePlace place_of(std::string_view key) const;       // of the value, else of the configuration file
  void set_default_place(FilePlace place) { default_place_ = std::move(place); }
  const std::set<std::string>& mentioned() const { return mentioned_; }
  const std::set<std::string>& unreadable() const { return unreadable_; }

 private:
  struct Source { FilePlace place; std::string origin; int layer = 0; };

  void apply_map(const Node& map, const std::string& section, const std::string& origin);
  void set(const std::string& key, const Node& node, const std::string& origin);
  void clear_rivals(const std::string& key);
  void report_unknown(const std::string& section, const std::string& name, const FilePlace& place);

  TrainConfig config_;
  Issues& issues_;
  std::map<std::string, Source> sources_;
  std::set<std::string> mentioned_, unreadable_;
  FilePlace default_place_;
  int layer_ = 0;
};

}  // namespace longlora
