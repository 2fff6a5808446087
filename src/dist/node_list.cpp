// SLURM's compressed host lists: own expansion, because `scontrol show hostnames` is not everywhere and a child process is not needed.
#include <charconv>

#include "dist/launch_claims.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

constexpr size_t kMaxHosts = 65'536, kMaxHostBytes = 255, kMaxListBytes = 1 << 20, kMaxBrackets = 4;

class NodeListReader {
 public:
  explicit NodeListReader(std::string_view text) : text_(text) {}

  std::vector<std::string> read() {
    if (text_.empty() || text_.size() > kMaxListBytes) refuse("has no hosts or is too long");
    for (;;) {
      one_entry();
      if (at_ == text_.size()) return std::move(hosts_);
      ++at_;  // one_entry stops at a comma or at the end
    }
  }

 private:
  [[noreturn]] void refuse(const std::string& problem) const {
    refuse_launch("the node list '" + escape(text_, 60) + "' " + problem + " at character " + std::to_string(at_ + 1),
                  "export MASTER_ADDR and MASTER_PORT with the host of rank 0");
  }

  static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }

  /// prefix, any number of bracketed sets and texts between them: the product of all.
  void one_entry() {
    std::vector<std::string> names(1);
    size_t brackets = 0;
    while (at_ < text_.size() && text_[at_] != ',') {
      if (text_[at_] == '[') {
        if (++brackets > kMaxBrackets) refuse("has too many brackets");
        names = product(names, bracket());
      } else if (is_name(text_[at_])) {
        const size_t start = at_;
        while (at_ < text_.size() && is_name(text_[at_])) ++at_;
        names = product(names, {std::string(text_.substr(start, at_ - start))});
      } else {
        refuse("has a character that no host name has");
      }
    }
    if (names.size() == 1 && names.front().empty()) refuse("has an empty entry");
    if (hosts_.size() + names.size() > kMaxHosts) refuse("has too many hosts");
    hosts_.insert(hosts_.end(), names.begin(), names.end());
  }

  std::vector<std::string> product(const std::vector<std::string>& heads, const std::vector<std::string>& tails) const {
    if (heads.size() * tails.size() > kMaxHosts) refuse("has too many hosts");  // both at most kMaxHosts: no overflow
    std::vector<std::string> names;
    for (const std::string& head : heads)
      for (const std::string& tail : tails) {
        if (head.size() + tail.size() > kMaxHostBytes) refuse("has a host name that is too long");
        names.push_back(head + tail);
      }
    return names;
  }

  /// "[1-3,07]" -> 1 2 3 07; digits keep their width.
  std::vector<std::string> bracket() {
    std::vector<std::string> values;
    do {
      ++at_;  // '[' or ','
      const std::string first = digits(), last = peek() == '-' ? (++at_, digits()) : first;
      const uint64_t from = std::stoull(first), to = std::stoull(last);
      if (to < from) refuse("has a range that goes down");
      if (to - from >= kMaxHosts - values.size()) refuse("has too many hosts");
      for (uint64_t value = from; value <= to; ++value) {
        const std::string text = std::to_string(value);
        values.push_back(std::string(first.size() > text.size() ? first.size() - text.size() : 0, '0') + text);
      }
    } while (peek() == ',');
    if (peek() != ']') refuse("has a bracket that does not close");
    ++at_;
    return values;
  }

  std::string digits() {
    const size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == start || at_ - start > 18) refuse("has no number, or a too long one,");
    return std::string(text_.substr(start, at_ - start));
  }

  std::string_view text_;
  size_t at_ = 0;
  std::vector<std::string> hosts_;
};

}  // namespace

std::vector<std::string> expand_node_list(std::string_view text) { return NodeListReader(text).read(); }

}  // namespace longlora::dist
