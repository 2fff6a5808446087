#pragma once
// What a value may be: the third column of the field table.

#include <cstdint>
#include <string>
#include <string_view>

#include "longlora/config/scalar_text.h"

namespace longlora {

struct Integers {
  int64_t low = 0, high = 0;
  Unit unit = Unit::none;
  bool even = false;
  std::string text() const;  // "an integer in [1, 65536]"
};

struct Reals {
  double low = 0, high = 0;
  bool open_low = false, open_high = false;
  size_t count = 0;  // of a list; 0: any
  bool holds(double value) const;
  std::string text() const;  // "a number in (0, 1]"
};

struct Words {};  // enumerations and booleans: their names say it
struct Text {
  bool required = false;          // may not be empty
  std::string_view choices = {};  // "answers, all"; empty: any text
};
struct Entries {};  // data.train, data.validation

}  // namespace longlora
