#pragma once
// Work on pieces by several threads, results in the order of the pieces.
#include <deque>
#include <functional>
#include <future>
#include <optional>

namespace longlora {

/// Calls `next` for piece after piece (caller's thread), `work(piece)` on up to `threads` threads, `consume(result)` in piece order
/// (caller's thread). At most `threads` pieces are open. The first exception in piece order is rethrown after all threads have ended.
template <class Piece, class Work, class Consume>
void ordered_parallel(int threads, const std::function<std::optional<Piece>()>& next, const Work& work, const Consume& consume) {
  using Result = std::invoke_result_t<Work, const Piece&>;
  std::deque<std::future<Result>> open;                      // a future of std::async waits in its destructor
  const auto launch = threads > 1 ? std::launch::async : std::launch::deferred;
  std::exception_ptr scan_error;                             // a fault found by `next` comes after the pieces before it
  bool more = true;
  while (more || !open.empty()) {
    while (more && open.size() < static_cast<size_t>(threads)) {
      std::optional<Piece> piece;
      try {
        piece = next();
      } catch (...) {
        scan_error = std::current_exception();
      }
      more = piece.has_value();
      if (more) open.push_back(std::async(launch, [&work, p = std::move(*piece)] { return work(p); }));
    }
    if (open.empty()) break;
    Result result = open.front().get();
    open.pop_front();
    consume(std::move(result));
  }
  if (scan_error) std::rethrow_exception(scan_error);
}

}  // namespace longlora
