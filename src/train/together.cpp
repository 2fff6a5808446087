#include "train/together.h"

#include <exception>

#include "longlora/core/error.h"

namespace longlora {
namespace {

dist::Status status_of(const std::exception_ptr& error) {
  if (!error) return {};
  try {
    std::rethrow_exception(error);
  } catch (const Error& e) {
    if (e.kind == ErrorKind::peer) throw;  // the transport is dead: nobody can be told
    return {exit_code(e.kind).code, e.what()};
  } catch (const std::exception& e) {
    return {exit_code(is_out_of_memory(e) ? ErrorKind::memory : ErrorKind::internal).code, e.what()};
  }
}

}  // namespace

bool any_rank(dist::Communicator& ranks, bool mine) {
  int64_t flag = mine ? 1 : 0;
  ranks.max({&flag, 1});
  return flag != 0;
}

void together(dist::Communicator& ranks, const std::function<void()>& f) {
  std::exception_ptr error;
  try {
    f();
  } catch (...) {
    if (ranks.size() == 1) throw;
    error = std::current_exception();
  }
  const std::vector<dist::Status> all = ranks.barrier(status_of(error));
  if (error) std::rethrow_exception(error);
  for (size_t r = 0; r < all.size(); ++r)
    if (all[r].code != 0)
      fail(kind_of_code(all[r].code).value_or(ErrorKind::internal), "rank " + std::to_string(r) + ": " + all[r].text,
           "rank " + std::to_string(ranks.rank()), "see rank " + std::to_string(r));
}

void on_root(dist::Communicator& ranks, const std::function<void()>& f) {
  together(ranks, [&] {
    if (ranks.rank() == 0) f();
  });
}

std::string root_text(dist::Communicator& ranks, std::string text) {
  int64_t length = ranks.rank() == 0 ? static_cast<int64_t>(text.size()) : 0;
  ranks.sum({&length, 1});
  text.resize(static_cast<size_t>(length));
  ranks.broadcast(dist::writable_bytes_of(std::span(text)), 0);
  return text;
}

}  // namespace longlora
