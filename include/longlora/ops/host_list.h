#pragma once
// Integers that the host makes and operations read: token ids, positions, labels, numbers of rows.
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <type_traits>

namespace longlora {

/// Copies integers to a device without waiting for it; undefined when the device is the CPU.
at::Tensor upload(std::span<const int32_t>, const at::Device&);
at::Tensor upload(std::span<const int64_t>, const at::Device&);

/// The host's integers and, once `stage`d, their copy beside the tensors of a device. An operation on a device that gets a list without a
/// copy makes one for this call.
template <class T>
class HostList {
 public:
  HostList() = default;
  template <class List>
  requires std::is_convertible_v<const List&, std::span<const T>> &&(!std::is_same_v<List, HostList>)HostList(const List& list)
      : host_(list) {}
  HostList(std::span<const T> host, at::Tensor staged) : host_(host), staged_(std::move(staged)) {}

  std::span<const T> host() const { return host_; }
  int64_t size() const { return static_cast<int64_t>(host_.size()); }
  void stage(const at::Device& device) { staged_ = upload(host_, device); }
  HostList part(int64_t first, int64_t count) const {
    return {host_.subspan(static_cast<size_t>(first), static_cast<size_t>(count)),
            staged_.defined() ? staged_.narrow(0, first, count) : at::Tensor()};
  }
  /// The copy on `device`. Keep the tensor until the kernels that read it are enqueued.
  at::Tensor on(const at::Device& device) const { return staged_.defined() ? staged_ : upload(host_, device); }

 private:
  std::span<const T> host_;
  at::Tensor staged_;
};
using IntList = HostList<int32_t>;
using RowList = HostList<int64_t>;

}  // namespace longlora
