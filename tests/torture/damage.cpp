// Damaged checkpoints: every bit and every truncation of the manifest, sampled bits of the files, missing, extra, swapped and mixed files.
#include <fmt/format.h>

#include <fstream>
#include <random>

#include "longlora/checkpoint/commit.h"
#include "longlora/core/error.h"
#include "torture/scenario.h"

namespace longlora::torture {
namespace {

namespace fs = std::filesystem;
constexpr int kSampledFlips = 400;

std::string read_text(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}
void write_text(const fs::path& file, const std::string& text) { std::ofstream(file, std::ios::binary | std::ios::trunc) << text; }

class Damage {
 public:
  Damage(const Arena& arena, Score& score) : folder_(arena.checkpoints()), step_(folder_ / "step-0000000002"), score_(score) {}

  /// The damaged step is refused as data, the lower one is taken.
  void expect_lower(const std::string& label) {
    ++score_.faults;
    try {
      CheckpointFolder::verify(step_);
      score_.loss(label + ": the damage went unnoticed");
    } catch (const Error& error) {
      if (error.kind != ErrorKind::data && error.kind != ErrorKind::missing) score_.wrong_code(label + ": " + error.what());
    }
    try {
      const auto found = CheckpointFolder::latest(folder_);
      if (!found || found->step != 1) score_.loss(label + ": the lower step was not taken");
    } catch (const Error& error) {
      score_.wrong_code(label + ": " + error.what());
    }
  }

  void flip(const std::string& name, size_t bit) {
    const std::string whole = read_text(step_ / name);
    std::string text = whole;
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    write_text(step_ / name, text);
    expect_lower(fmt::format("damage:flip {} bit {}", name, bit));
    write_text(step_ / name, whole);
  }

  void truncate(const std::string& name, size_t bytes) {
    const std::string whole = read_text(step_ / name);
    write_text(step_ / name, whole.substr(0, bytes));
    expect_lower(fmt::format("damage:truncate {} to {}", name, bytes));
    write_text(step_ / name, whole);
  }

  void change(const std::string& label, const std::function<void(const fs::path&)>& apply) {
    const fs::path copy = folder_ / "copy";
    fs::copy(step_, copy, fs::copy_options::recursive);
    apply(step_);
    expect_lower("damage:" + label);
    fs::remove_all(step_);
    fs::rename(copy, step_);
  }

  size_t bytes(const std::string& name) const { return fs::file_size(step_ / name); }
  fs::path other_step() const { return folder_ / "step-0000000001"; }

 private:
  fs::path folder_, step_;
  Score& score_;
};

const std::string kWeights = "state-00001-of-00001.safetensors";
const std::string kState = "state.json";
const std::string kManifest = "MANIFEST.json";

void damage_files(Damage& damage, uint64_t seed) {
  for (size_t bit = 0; bit < 8 * damage.bytes(kManifest); ++bit) damage.flip(kManifest, bit);
  for (size_t bytes = 0; bytes < damage.bytes(kManifest); ++bytes) damage.truncate(kManifest, bytes);
  for (size_t bit = 0; bit < 8 * damage.bytes(kState); ++bit) damage.flip(kState, bit);
  std::mt19937_64 random(seed);
  for (int i = 0; i < kSampledFlips; ++i) damage.flip(kWeights, random() % (8 * damage.bytes(kWeights)));
  for (const size_t bytes : {size_t{0}, size_t{1}, size_t{7}, damage.bytes(kWeights) - 1}) damage.truncate(kWeights, bytes);
}

void damage_names(Damage& damage) {
  for (const std::string& name : {kManifest, kState, kWeights}) {
    damage.change("missing " + name, [&](const fs::path& step) { fs::remove(step / name); });
    damage.change("folder instead of " + name, [&](const fs::path& step) {
      fs::remove(step / name);
      fs::create_directory(step / name);
    });
    damage.change("of another step " + name, [&](const fs::path& step) {
      fs::copy_file(damage.other_step() / name, step / name, fs::copy_options::overwrite_existing);
    });
  }
  damage.change("extra file", [](const fs::path& step) { write_text(step / "extra", "x"); });
  damage.change("swapped files", [](const fs::path& step) {
    fs::rename(step / kState, step / "swap");
    fs::rename(step / kWeights, step / kState);
    fs::rename(step / "swap", step / kWeights);
  });
  damage.change("a whole other step under this name", [&](const fs::path& step) {
    fs::remove_all(step);
    fs::copy(damage.other_step(), step, fs::copy_options::recursive);
  });
}

/// All damaged: 80, and not one name changed.
void damage_everything(const Arena& arena, Score& score) {
  arena.reset();
  for (const char* step : {"step-0000000001", "step-0000000002"}) write_text(arena.checkpoints() / step / kState, "{}");
  const auto before = names(arena.checkpoints());
  const Outcome outcome = run_child([&](const Report& report) { return recover_body(arena.run(), report); });
  ++score.faults;
  if (outcome.code != exit_code(ErrorKind::no_checkpoint).code) score.wrong_code(fmt::format("damage:all ends with {}", outcome.code));
  if (names(arena.checkpoints()) != before) score.loss("damage:all: something was renamed or deleted");
}

/// The damaged one is renamed bad-* after the lower one verified, and the run goes on.
void damage_then_recover(const Arena& arena, Score& score) {
  arena.reset();
  write_text(arena.checkpoints() / "step-0000000002" / kState, "{}");
  const Outcome outcome = run_child([&](const Report& report) { return save_body(arena.run(), 2, 2, report); });
  ++score.faults;
  if (outcome.code != 0) score.wrong_code(fmt::format("damage:recover ends with {}", outcome.code));
  if (!has_prefix(arena.checkpoints(), "bad-0000000002-")) score.loss("damage:recover: the damaged step is not kept as bad-*");
  if (highest_complete(arena.checkpoints(), true) != 2) score.loss("damage:recover: step 2 was not saved again");
}

}  // namespace

void damage_checkpoints(Score& score, uint64_t seed) {
  const Arena arena;
  prepare(arena, Start::two_steps);
  arena.reset();
  Damage damage(arena, score);
  const int64_t before = score.faults;
  damage_files(damage, seed);
  damage_names(damage);
  damage_everything(arena, score);
  damage_then_recover(arena, score);
  fmt::print("damaged checkpoints: {}\n", score.faults - before);
}

}  // namespace longlora::torture
