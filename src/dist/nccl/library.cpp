// NCCL and the CUDA runtime behind CollectiveLibrary. The only file of the module that includes their headers.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>
#include <nccl.h>

#include <cstring>

#include "dist/nccl_result.h"
#include "dist/nccl_transport.h"
#include "longlora/core/error.h"

namespace longlora::dist {
namespace {

static_assert(ncclSuccess == kNcclSuccess && ncclInProgress == kNcclInProgress && ncclNumResults == 8, "nccl_result.cpp has the table");
static_assert(ncclUnhandledCudaError == 1 && ncclSystemError == 2 && ncclInternalError == 3 && ncclInvalidArgument == 4 &&
              ncclInvalidUsage == 5 && ncclRemoteError == 6);
static_assert(sizeof(CollectiveLibrary::UniqueId) == sizeof(ncclUniqueId));

constexpr const char* kLibrary = "libnccl.so.2";

/// The functions in use, typed by the header.
struct Functions {
  decltype(&::ncclGetVersion) version;
  decltype(&::ncclGetUniqueId) make_id;
  decltype(&::ncclCommInitRankConfig) init;
  decltype(&::ncclCommGetAsyncError) async_error;
  decltype(&::ncclGetLastError) last_error;
  decltype(&::ncclGroupStart) group_start;
  decltype(&::ncclGroupEnd) group_end;
  decltype(&::ncclSend) send;
  decltype(&::ncclRecv) receive;
  decltype(&::ncclAllGather) all_gather;
  decltype(&::ncclBroadcast) broadcast;
  decltype(&::ncclCommFinalize) finalize;
  decltype(&::ncclCommDestroy) destroy;
  decltype(&::ncclCommAbort) abort;
};

template <class F>
void find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(::dlsym(library, name));
  LONGLORA_CHECK(function != nullptr, config, fmt::format("the function {} is missing", name), kLibrary,
                 fmt::format("install NCCL {}.{}.{} (scripts/setup.sh --cuda)", NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH));
}

/// By its SONAME: where LibTorch's GPU half has loaded NCCL already, this is the same copy. Never unloaded: NCCL keeps threads.
Functions load() {
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* said = ::dlerror();
    fail(ErrorKind::config, fmt::format("NCCL cannot be loaded: {}", said ? said : "no reason given"), kLibrary,
         "run scripts/setup.sh --cuda, or set dist.backend: tcp");
  }
  Functions f{};
  find(library, "ncclGetVersion", f.version);
  find(library, "ncclGetUniqueId", f.make_id);
  find(library, "ncclCommInitRankConfig", f.init);
  find(library, "ncclCommGetAsyncError", f.async_error);
  find(library, "ncclGetLastError", f.last_error);
  find(library, "ncclGroupStart", f.group_start);
  find(library, "ncclGroupEnd", f.group_end);
  find(library, "ncclSend", f.send);
  find(library, "ncclRecv", f.receive);
  find(library, "ncclAllGather", f.all_gather);
  find(library, "ncclBroadcast", f.broadcast);
  find(library, "ncclCommFinalize", f.finalize);
  find(library, "ncclCommDestroy", f.destroy);
  find(library, "ncclCommAbort", f.abort);
  return f;
}

const Functions& functions() {
  static const Functions loaded = load();
  return loaded;
}

class CudaNccl : public CollectiveLibrary {
 public:
  explicit CudaNccl(int device) : nccl_(functions()), device_(device) {}

  int header_version() const override { return NCCL_VERSION_CODE; }
  int library_version() const override {
    int version = 0;
    return nccl_.version(&version) == ncclSuccess ? version : 0;
  }
  std::string device_name() const override { return fmt::format("GPU {}", device_); }
  DeviceUuid device_uuid() override {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, device_), "cudaGetDeviceProperties");
    DeviceUuid uuid;
    static_assert(sizeof properties.uuid == sizeof uuid);
    std::memcpy(uuid.data(), &properties.uuid, sizeof uuid);
    return uuid;
  }

  int make_id(UniqueId& id) override { return nccl_.make_id(reinterpret_cast<ncclUniqueId*>(id.data())); }
  int init(Handle& handle, int size, const UniqueId& id, int rank) override {
    check(cudaSetDevice(device_), "cudaSetDevice");
    ncclUniqueId raw;
    std::memcpy(&raw, id.data(), sizeof raw);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclComm_t made = nullptr;
    const int result = nccl_.init(&made, size, raw, rank, &config);
    handle = made;
    return result;
  }
  int state(Handle handle, int& async_result) override {
    ncclResult_t state = ncclSuccess;
    const int asked = nccl_.async_error(comm(handle), &state);
    async_result = state;
    return asked;
  }
  int group_start() override { return nccl_.group_start(); }
  int group_end() override { return nccl_.group_end(); }
  int send(Handle handle, ConstBuffer out, int peer, Stream stream) override {
    return nccl_.send(out.data, out.bytes, ncclUint8, peer, comm(handle), cuda(stream));
  }
  int receive(Handle handle, Buffer in, int peer, Stream stream) override {
    return nccl_.receive(in.data, in.bytes, ncclUint8, peer, comm(handle), cuda(stream));
  }
  int all_gather(Handle handle, ConstBuffer mine, Buffer all, Stream stream) override {
    return nccl_.all_gather(mine.data, all.data, mine.bytes, ncclUint8, comm(handle), cuda(stream));
  }
  int broadcast(Handle handle, Buffer data, int root, Stream stream) override {
    return nccl_.broadcast(data.data, data.data, data.bytes, ncclUint8, root, comm(handle), cuda(stream));
  }
  int finalize(Handle handle) override { return nccl_.finalize(comm(handle)); }
  int destroy(Handle handle) override { return nccl_.destroy(comm(handle)); }
  int abort(Handle handle) override { return nccl_.abort(comm(handle)); }
  std::string last_error(Handle handle) override {
    const char* said = nccl_.last_error(comm(handle));
    return said ? said : "";
  }

  Mark record(Mark reused, Stream stream) override {
    auto* event = static_cast<cudaEvent_t>(reused);
    if (event == nullptr) check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    check(cudaEventRecord(event, cuda(stream)), "cudaEventRecord");
    return event;
  }
  Progress progress(Mark mark, std::string& error) override {
    const cudaError_t status = cudaEventQuery(static_cast<cudaEvent_t>(mark));
    if (status == cudaSuccess) return Progress::done;
    if (status == cudaErrorNotReady) return Progress::pending;
    error = fmt::format("{}: {}", device_name(), cudaGetErrorString(status));
    return Progress::failed;
  }

 private:
  static ncclComm_t comm(Handle handle) { return static_cast<ncclComm_t>(handle); }
  static cudaStream_t cuda(Stream stream) { return static_cast<cudaStream_t>(stream); }
  void check(cudaError_t status, const char* call) const {
    if (status != cudaSuccess)
      fail(ErrorKind::peer, fmt::format("{}: {}", call, cudaGetErrorString(status)), device_name(), "look at nvidia-smi and run doctor");
  }
  const Functions& nccl_;
  const int device_;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator> control, int device, const NcclOptions& options) {
  const int rank = control->rank();
  return connect_nccl(
      std::move(control), [device] { return std::make_unique<CudaNccl>(device); }, options, process_surroundings(rank));
}

std::unique_ptr<CollectiveLibrary> open_nccl(int device) { return std::make_unique<CudaNccl>(device); }

std::optional<std::string> nccl_version() try {
  int version = 0;
  if (functions().version(&version) != ncclSuccess) return std::nullopt;
  return nccl_version_text(version);
} catch (const Error&) {
  return std::nullopt;
}

}  // namespace longlora::dist
