#pragma once
// Rules between keys that need neither model nor data. load_config runs them with places, make_run_plan without.

#include <functional>
#include <initializer_list>
#include <set>
#include <string>
#include <string_view>

#include "config/node.h"

namespace longlora {

class Checks {
 public:
  using PlaceOf = std::function<FilePlace(std::string_view key)>;

  Checks(const TrainConfig& config, Issues& issues, PlaceOf place_of, std::set<std::string> unreadable = {})
      : c_(config), issues_(issues), place_of_(std::move(place_of)), unreadable_(std::move(unreadable)) {}

  void run();
  void run_for_plan();           // the rules that derived numbers rest on, whatever this version can execute
  /// Keys that must be given; `mentioned`: those that some source tried to set.
  void check_required(const std::set<std::string>& mentioned);
  void report(std::string_view key, std::string what, std::string advice);

 private:
  /// False when one of the keys could not be read: what follows from it is not worth a message.
  bool readable(std::initializer_list<std::string_view> keys) const;
  void not_yet(std::string_view key, std::string_view value, std::string_view instead);

  void check_exclusive();
  void check_attention();
  void check_tuning();
  void check_batch();
  void check_evaluation();
  void check_sequence_parallel();
  void check_entries(std::string_view key, const std::vector<DataEntry>&);
  void check_entry(std::string_view key, size_t index, const DataEntry&);
  void check_supported_data();
  void check_supported_machine();

  const TrainConfig& c_;
  Issues& issues_;
  PlaceOf place_of_;
  std::set<std::string> unreadable_;
};

/// Throws Error{config} with every issue as a detail; returns when there is none.
void raise_issues(const Issues&);
Problem problem_of(const Issue&);
std::string detail_of(const Issue&);   // "FILE:LINE:COLUMN: KEY: what; advice"

}  // namespace longlora
