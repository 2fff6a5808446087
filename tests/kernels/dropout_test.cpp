// Dropout against its definition: the mask of the host's Philox, element by element.
#include "longlora/kernels/dropout.h"

#include "kernels/support/cases.h"
#include "longlora/core/philox.h"

namespace longlora::testing {
namespace {

using kernels::Dropout;

Dropout shape_of(ElementType type, int64_t rows, int64_t width, int64_t tokens, int64_t first_row) {
  return {.type = type,
          .rows = rows,
          .width = width,
          .tokens = tokens,
          .first_row = first_row,
          .drop_probability = 0.3f,
          .keep_scale = static_cast<float>(1 / 0.7),
          .seed = 0x123456789abcdef0u,
          .place = 2u << 24 | 5u << 16 | 7u,
          .step = 11};
}

Values oracle(const Dropout& d, const Values& x, const Values& added_to, const std::vector<uint32_t>& global_rows) {
  Values out;
  for (int64_t n = 0; n < d.rows; ++n)
    for (int64_t i = 0; i < d.width; ++i) {
      const int64_t row = d.first_row + n, element = row % d.tokens * d.width + i;
      const auto words = philox4x32({static_cast<uint32_t>(element / 4), d.place, d.step, global_rows[static_cast<size_t>(row / d.tokens)]},
                                    {static_cast<uint32_t>(d.seed), static_cast<uint32_t>(d.seed >> 32)});
      const auto at = static_cast<size_t>(n * d.width + i);
      const bool kept = uniform_from(words[static_cast<size_t>(element % 4)]) >= d.drop_probability;
      out.push_back((d.accumulate ? added_to[at] : 0) + (kept ? x[at] * static_cast<double>(d.keep_scale) : 0));
    }
  return out;
}

TEST(Dropout, KeepsWhatTheCountersSay) {
  std::vector<uint32_t> global_rows(200);
  for (size_t r = 0; r < global_rows.size(); ++r) global_rows[r] = static_cast<uint32_t>(1000 + 3 * r);
  struct Case {
    int64_t rows, width, tokens, first_row;
  };
  for (const ElementType type : kTypes)
    for (const auto& [rows, width, tokens, first] : {Case{1, 1, 1, 0}, {5, 7, 3, 2}, {4, 64, 2, 1}, {3, 65, 100, 98}, {150, 3, 2, 5}})
      for (const bool accumulate : {false, true}) {
        Dropout d = shape_of(type, rows, width, tokens, first);
        d.accumulate = accumulate;
        Matrix x("x", type, rows, width, width + 3, 0, Random(1).normals(rows * width));
        Matrix out("out", type, rows, width, width + 5, 0, Random(2).normals(rows * width));
        const Values expected = oracle(d, x.given, out.given, global_rows);
        expect_ok(kernels::dropout(d, x.view(), out.view(), global_rows.data(), 200, nullptr));
        expect_close(out.read(), expected, rounded_once(type, 2), "rows " + std::to_string(rows) + " width " + std::to_string(width),
                     accumulate ? 4 : 1e-3, underflow(type));
      }
}

TEST(Dropout, RefusesByName) {
  float memory[4] = {};
  const uint32_t row = 0;
  const auto refused = [&](Dropout d, int64_t num_rows, const char* argument) {
    const Launch l = kernels::dropout(d, {memory, 4}, {memory, 4}, &row, num_rows, nullptr);
    EXPECT_FALSE(l.ok());
    EXPECT_STREQ(l.argument, argument);
  };
  Dropout d = shape_of(ElementType::fp32, 1, 4, 1, 0);
  refused(shape_of(ElementType::fp32, 2, 4, 1, 0), 1, "global_rows");
  refused(shape_of(ElementType::fp32, 0, 4, 1, 0), 1, "rows");
  d.drop_probability = 1;
  refused(d, 1, "drop_probability");
}

}  // namespace
}  // namespace longlora::testing
