// torchrun's store, reached as its client only: a server of this protocol can be blocked by two bytes and made to allocate by twelve.
#include "apps/agent_store.h"

#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "longlora/core/error.h"

namespace longlora::apps {
namespace {

constexpr std::chrono::milliseconds kConnectTimeout{60'000};

class AgentStore : public dist::BootstrapStore {
 public:
  explicit AgentStore(const dist::Endpoint& endpoint) : place_(endpoint.host + ":" + std::to_string(endpoint.port)) {
    c10d::TCPStoreOptions options;
    options.port = endpoint.port;
    options.isServer = false;
    options.waitWorkers = false;
    options.timeout = kConnectTimeout;
    guarded([&] { store_ = c10::make_intrusive<c10d::TCPStore>(endpoint.host, options); });
  }

  void set(const std::string& key, const std::string& value) override {
    guarded([&] { store_->set(key, std::vector<uint8_t>(value.begin(), value.end())); });
  }

  std::string get(const std::string& key, double seconds) override {
    std::string value;
    guarded([&] {
      store_->setTimeout(std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000)));
      const std::vector<uint8_t> bytes = store_->get(key);
      value.assign(bytes.begin(), bytes.end());
    });
    return value;
  }

 private:
  template <class F>
  void guarded(F&& f) const {
    try {
      f();
    } catch (const std::exception& error) {
      const std::string text = error.what();
      fail(ErrorKind::peer, "torchrun's store: " + text.substr(0, text.find('\n')), place_,
           "look at torchrun's own output, then start again");
    }
  }

  std::string place_;
  c10::intrusive_ptr<c10d::TCPStore> store_;
};

}  // namespace

std::unique_ptr<dist::BootstrapStore> connect_agent_store(const dist::Endpoint& endpoint) { return std::make_unique<AgentStore>(endpoint); }

}  // namespace longlora::apps
