#pragma once
// The buffers that kernels may touch: what lies where, and who wrote there. Part of the runtime (runtime.cpp).
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace longlora::emu {

struct Buffer {
  const char* begin;
  size_t bytes;
  std::string name;
  std::vector<uint64_t> writer;  // per two bytes: launch and block that wrote there last
};

class Memory {
 public:
  void add(const void* begin, size_t bytes, std::string name) {
    buffers_.push_back({static_cast<const char*>(begin), bytes, std::move(name), {}});
    last_ = 0;
  }
  void remove(const void* begin) {
    std::erase_if(buffers_, [&](const Buffer& b) { return b.begin == begin; });
    last_ = 0;
  }
  Buffer* find(const void* p, size_t bytes) {
    const auto* c = static_cast<const char*>(p);
    const auto holds = [&](const Buffer& b) {
      return c >= b.begin && bytes <= b.bytes && static_cast<size_t>(c - b.begin) <= b.bytes - bytes;
    };
    if (last_ < buffers_.size() && holds(buffers_[last_])) return &buffers_[last_];
    for (size_t i = 0; i < buffers_.size(); ++i) {
      if (!holds(buffers_[i])) continue;
      last_ = i;
      return &buffers_[i];
    }
    return nullptr;
  }
  /// Where p lies relative to the nearest buffer, and how far from it.
  struct Neighbour {
    int64_t distance = 4096;  // further away nothing is a neighbour
    std::string text = "an address in no registered buffer";
  };
  Neighbour neighbour(const void* p) const {
    const auto* c = static_cast<const char*>(p);
    Neighbour nearest;
    for (const Buffer& b : buffers_) {
      const int64_t inside = c - b.begin, size = static_cast<int64_t>(b.bytes), distance = inside < 0 ? -inside : inside - size;
      if (distance >= nearest.distance) continue;
      nearest = {distance, inside < 0 ? std::to_string(-inside) + " bytes before '" + b.name + "'"
                                      : "byte " + std::to_string(inside) + " of '" + b.name + "', which has " + std::to_string(size)};
    }
    return nearest;
  }

 private:
  std::vector<Buffer> buffers_;
  size_t last_ = 0;
};

}  // namespace longlora::emu
