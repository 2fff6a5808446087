#include "dist/nccl_transport.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include "dist/nccl_result.h"
#include "dist/nccl_session.h"
#include "longlora/core/clock.h"
#include "longlora/core/error.h"
#include "longlora/core/log.h"

namespace longlora::dist {
namespace {

class NcclCommunicator : public Communicator {
 public:
  NcclCommunicator(std::shared_ptr<NcclSession> session, std::shared_ptr<Watchdog> watchdog, std::unique_ptr<Communicator> part)
      : session_(std::move(session)), watchdog_(std::move(watchdog)), part_(std::move(part)) {
    {
      const std::lock_guard lock(session_->mutex);
      number_ = session_->communicators++;
    }
    join();
  }
  ~NcclCommunicator() override {
    try {
      leave();
    } catch (const std::exception& error) {
      log_warning("NCCL did not end cleanly: {}", error.what());
    }
  }
  int rank() const override { return host().rank(); }
  int size() const override { return host().size(); }
  bool takes_device_memory() const override { return true; }

  void exchange(int peer, ConstBuffer out, Buffer in, Stream stream) override {
    if (!on_device(out.bytes, out.memory, in.bytes, in.memory)) return host().exchange(peer, out, in, stream);
    check_peer(peer);
    run("exchange", peer, out.bytes, in.bytes, stream, [&] { return grouped(peer, out, in, stream); });
  }
  void send(int peer, ConstBuffer out, Stream stream) override {
    if (out.memory == Memory::host) return host().send(peer, out, stream);
    check_peer(peer);
    run("send", peer, out.bytes, 0, stream, [&] { return grouped(peer, out, {}, stream); });
  }
  void receive(int peer, Buffer in, Stream stream) override {
    if (in.memory == Memory::host) return host().receive(peer, in, stream);
    check_peer(peer);
    run("receive", peer, 0, in.bytes, stream, [&] { return grouped(peer, {}, in, stream); });
  }
  void all_gather(ConstBuffer mine, Buffer all, Stream stream) override {
    LONGLORA_INVARIANT(all.bytes == mine.bytes * static_cast<size_t>(size()));
    if (!on_device(mine.bytes, mine.memory, all.bytes, all.memory)) return host().all_gather(mine, all, stream);
    const size_t others = all.bytes - mine.bytes;  // as a ring moves them
    run("all_gather", -1, others, others, stream, [&] { return session_->library->all_gather(handle_, mine, all, stream); });
  }
  void broadcast(Buffer data, int root, Stream stream) override {
    if (data.memory == Memory::host) return host().broadcast(data, root, stream);
    LONGLORA_INVARIANT(root >= 0 && root < size());
    const bool sends = rank() == root && size() > 1;
    run("broadcast", root, sends ? data.bytes : 0, rank() == root ? 0 : data.bytes, stream,
        [&] { return session_->library->broadcast(handle_, data, root, stream); });
  }
  void sum(std::span<int64_t> values) override { host().sum(values); }
  void max(std::span<int64_t> values) override { host().max(values); }
  std::vector<Status> barrier(const Status& mine) override { return host().barrier(mine); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    return std::make_unique<NcclCommunicator>(session_, watchdog_, host().split(color, key));
  }
  void abort(std::string_view reason) noexcept override { session_->end_run(reason, false); }
  void set_place(const char* phase, int64_t step) override {
    {
      const std::lock_guard lock(session_->mutex);
      session_->phase = phase, session_->step = step;
    }
    host().set_place(phase, step);
  }
  Traffic traffic() const override {
    Traffic all = host().traffic();
    all.sent += traffic_.sent, all.received += traffic_.received;
    return all;
  }

 private:
  Communicator& host() const { return part_ ? *part_ : *session_->control; }
  void check_peer(int peer) const { LONGLORA_INVARIANT(peer >= 0 && peer < size() && peer != rank()); }
  static bool on_device(size_t out_bytes, Memory out, size_t in_bytes, Memory in) {
    if (out_bytes == 0) return in == Memory::device;
    if (in_bytes == 0) return out == Memory::device;
    LONGLORA_INVARIANT(out == in);
    return out == Memory::device;
  }
  int grouped(int peer, ConstBuffer out, Buffer in, Stream stream) {
    CollectiveLibrary& library = *session_->library;
    if (const int started = library.group_start(); started != kNcclSuccess) return started;
    const auto failed = [](int result) { return result != kNcclSuccess && result != kNcclInProgress; };
    int result = out.bytes > 0 ? library.send(handle_, out, peer, stream) : kNcclSuccess;
    if (!failed(result) && in.bytes > 0) result = library.receive(handle_, in, peer, stream);
    const int ended = library.group_end();  // a group must be closed even after an error
    return failed(result) ? result : ended;
  }
  FlightRecord record(const char* operation, int peer, uint64_t bytes) {
    const std::lock_guard lock(session_->mutex);
    return {.transport = "nccl",
            .communicator = static_cast<uint64_t>(number_),
            .sequence = sequence_++,
            .operation = operation,
            .peer = peer,
            .bytes = bytes,
            .phase = session_->phase,
            .step = session_->step,
            .entered_at = session_->now()};
  }
  /// Watched from entering to leaving; an error ends the run on all ranks.
  template <class F>
  void watched(const FlightRecord& record, double deadline_seconds, const F& body) {
    const uint64_t entry = session_->book->enter(record, deadline_seconds);
    try {
      body(entry);
    } catch (const Error& error) {
      session_->book->left(entry, session_->now());
      session_->end_run(error.what_happened, false);
      throw;
    }
  }
  template <class F>
  void run(const char* operation, int peer, size_t sent, size_t received, Stream stream, const F& issue) {
    session_->check_alive();
    if (sent == 0 && received == 0 && size() > 1 && operation != std::string_view("broadcast")) return;
    watched(record(operation, peer, std::max(sent, received)), session_->options.collective_seconds, [&](uint64_t entry) {
      session_->settle(handle_, session_->use(handle_, issue), operation);
      CollectiveLibrary::Mark reused = nullptr;
      {
        const std::lock_guard lock(session_->mutex);
        if (!session_->free_marks.empty()) reused = session_->free_marks.back(), session_->free_marks.pop_back();
      }
      session_->book->enqueued(entry, session_->library->record(reused, stream), stream, session_->now());
    });
    traffic_.sent += sent, traffic_.received += received;
  }

  void join() {
    CollectiveLibrary::UniqueId id{};
    watched(record("join", -1, 0), session_->options.setup_seconds, [&](uint64_t entry) {
      if (rank() == 0)
        if (const int made = session_->library->make_id(id); made != kNcclSuccess)
          throw nccl_error(made, "ncclGetUniqueId", session_->place(), session_->library->last_error(nullptr));
      host().broadcast({id.data(), id.size(), Memory::host}, 0);
      int begun = kNcclSuccess;
      {
        const std::lock_guard lock(session_->gate);
        begun = session_->library->init(handle_, size(), id, rank());
        if (handle_ != nullptr) session_->handles.push_back(handle_);
      }
      if (handle_ == nullptr) throw nccl_error(begun, "ncclCommInitRankConfig", session_->place(), session_->library->last_error(nullptr));
      session_->settle(handle_, begun, "ncclCommInitRankConfig");
      session_->book->left(entry, session_->now());
    });
  }
  /// Together with the other ranks; alone, by an abort, when this rank leaves by an exception.
  void leave() {
    if (std::uncaught_exceptions() > 0) return session_->abort_handles();
    {
      const std::lock_guard lock(session_->mutex);
      if (session_->dead) return;
    }
    watched(record("leave", -1, 0), session_->options.setup_seconds, [&](uint64_t entry) {
      session_->settle(handle_, session_->use(handle_, [&] { return session_->library->finalize(handle_); }), "ncclCommFinalize");
      const int destroyed = session_->use(handle_, [&] {
        std::erase(session_->handles, handle_);
        return session_->library->destroy(handle_);
      });
      if (destroyed != kNcclSuccess) throw nccl_error(destroyed, "ncclCommDestroy", session_->place(), "");
      session_->book->left(entry, session_->now());
    });
  }

  std::shared_ptr<NcclSession> session_;
  std::shared_ptr<Watchdog> watchdog_;  // ends before the session
  std::unique_ptr<Communicator> part_;  // null: the world's, which is the session's
  CollectiveLibrary::Handle handle_ = nullptr;
  int number_ = 0;
  int64_t sequence_ = 0;
  Traffic traffic_;
};

}  // namespace

NcclSurroundings process_surroundings(int rank) {
  const auto end = [rank](const Verdict& verdict) {
    const std::string line =
        error_line(Error(ErrorKind::peer, describe(verdict, rank), fmt::format("rank {}", rank), kAfterPeerFailure)) + "\n";
    // a full pipe must not hold the end up
    std::thread([line] { [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line.data(), line.size()); }).detach();
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    ::_exit(exit_code(ErrorKind::peer).code);
  };
  return {.now = monotonic_seconds, .end_process = end, .times = {}};
}

std::unique_ptr<Communicator> connect_nccl(std::unique_ptr<Communicator> control,
                                           const std::function<std::unique_ptr<CollectiveLibrary>()>& open, const NcclOptions& options,
                                           NcclSurroundings surroundings) {
  auto session = std::make_shared<NcclSession>();
  session->rank = control->rank();
  session->control = std::move(control);
  session->options = options;
  session->surroundings = std::move(surroundings);
  session->records = options.records ? options.records : std::make_shared<FlightRecorder>();
  session->book = std::make_unique<WatchBook>(*session->records);
  open_library(*session, open);  // fails on all ranks or on none
  auto watchdog = std::make_shared<Watchdog>(*session->book, hooks_of(session), session->surroundings.times);
  return std::make_unique<NcclCommunicator>(session, watchdog, nullptr);
}

}  // namespace longlora::dist
