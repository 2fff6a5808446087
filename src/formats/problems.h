#pragma once
// Several problems of one file, reported together: at most 20 detail lines "FILE: PLACE: text", then one sentence.

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "longlora/core/error.h"

namespace longlora {

class Problems {
 public:
  explicit Problems(std::string_view source) : source_(source) {}
  void add(std::string place, std::string text) {
    if (list_.size() < kShown) list_.push_back({std::move(place), std::move(text)});
    ++count_;
  }
  void count_more(size_t unlisted) { count_ += unlisted; }  // problems that a line already added stands for
  bool empty() const { return count_ == 0; }
  size_t count() const { return count_; }
  /// Throws when there is a problem. One problem is the sentence itself; of several the first stands in the sentence.
  void raise(ErrorKind kind, std::string_view what_to_do) const {
    if (list_.empty()) return;
    std::vector<std::string> details;
    if (count_ > 1) {
      for (const Item& item : list_) details.push_back(fmt::format("{}: {}: {}", source_, item.place, item.text));
    }
    const Item& first = list_.front();
    fail(kind, count_ == 1 ? first.text : fmt::format("{} problems, the first: {}", count_, first.text),
         fmt::format("{}: {}", source_, first.place), std::string(what_to_do), std::move(details));
  }

 private:
  static constexpr size_t kShown = 20;
  struct Item {
    std::string place, text;
  };
  std::string source_;
  std::vector<Item> list_;
  size_t count_ = 0;
};

}  // namespace longlora
