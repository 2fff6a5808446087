#pragma once
// What the NCCL transport needs of NCCL and CUDA, a virtual call each: the real one is in nccl/, a made-up one in the tests.
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "longlora/dist/communicator.h"

namespace longlora::dist {

enum class Progress { pending, done, failed };

/// Results are ncclResult_t numbers (nccl_result.h). A call may answer kNcclInProgress; `state` then tells when it has ended.
/// One thread launches; `state`, `abort` and `progress` are also called by the watchdog's.
class CollectiveLibrary {
 public:
  using Handle = void*;  // ncclComm_t
  using Mark = void*;    // cudaEvent_t
  using UniqueId = std::array<std::byte, 128>;
  using DeviceUuid = std::array<uint8_t, 16>;

  virtual ~CollectiveLibrary() = default;
  virtual int header_version() const = 0;
  virtual int library_version() const = 0;
  virtual std::string device_name() const = 0;  // "GPU 1", for messages
  virtual DeviceUuid device_uuid() = 0;         // ErrorKind::peer when there is no driver or no such device

  virtual int make_id(UniqueId&) = 0;
  virtual int init(Handle&, int size, const UniqueId&, int rank) = 0;
  virtual int state(Handle, int& async_result) = 0;
  virtual int group_start() = 0;
  virtual int group_end() = 0;
  virtual int send(Handle, ConstBuffer, int peer, Stream) = 0;
  virtual int receive(Handle, Buffer, int peer, Stream) = 0;
  virtual int all_gather(Handle, ConstBuffer mine, Buffer all, Stream) = 0;
  virtual int broadcast(Handle, Buffer, int root, Stream) = 0;
  virtual int finalize(Handle) = 0;
  virtual int destroy(Handle) = 0;
  virtual int abort(Handle) = 0;
  virtual std::string last_error(Handle) = 0;  // NCCL's own line about its last error, or empty

  /// Marks the end of what is on the stream now. `reused` is a mark of an earlier call that is done, or null. ErrorKind::peer.
  virtual Mark record(Mark reused, Stream) = 0;
  /// `error` is CUDA's sentence when the device failed.
  virtual Progress progress(Mark, std::string& error) = 0;
};

}  // namespace longlora::dist
