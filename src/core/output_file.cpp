#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <utility>

#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora {

namespace {

constexpr size_t kMaxWrite = size_t{1} << 30;

int open_for_writing(const fs::path& path, int extra_flags) {
  for (;;) {
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC | extra_flags, 0666);
    if (descriptor >= 0 || errno != EINTR) return descriptor;
  }
}

/// One transfer of `write_some(remaining)` after the other; interruptions and short transfers stay invisible.
template <class WriteSome>
void write_in_pieces(std::span<const std::byte> bytes, int descriptor, const fs::path& path, WriteSome write_some) {
  while (!bytes.empty()) {
    const ssize_t written = write_some(bytes.first(std::min(bytes.size(), kMaxWrite)));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {
      pollfd ready{descriptor, POLLOUT, 0};
      ::poll(&ready, 1, 1000);
      continue;
    }
    if (written <= 0) fail_errno(written == 0 ? EIO : errno, "writing", path.string());
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

}  // namespace

OutputFile OutputFile::create(const fs::path& path) {
  OutputFile file;
  file.descriptor_ = open_for_writing(path, O_EXCL);
  if (file.descriptor_ < 0 && errno == EEXIST)
    fail(ErrorKind::busy, "the file exists already", path.string(), "remove it or choose another output");
  if (file.descriptor_ < 0) fail_errno(errno, "creating the file", path.string());
  file.path_ = path;
  return file;
}

OutputFile OutputFile::append(const fs::path& path) {
  OutputFile file;
  file.descriptor_ = open_for_writing(path, O_APPEND);
  if (file.descriptor_ < 0) fail_errno(errno, "opening the file for writing", path.string());
  file.path_ = path;
  return file;
}

OutputFile::OutputFile(OutputFile&& other) noexcept { *this = std::move(other); }

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  return *this;
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void OutputFile::allocate(uint64_t bytes) {
  if (bytes == 0) return;
  int result = 0;
  do result = ::fallocate(descriptor_, 0, 0, static_cast<off_t>(bytes));
  while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != EINVAL)
    fail_errno(errno, fmt::format("reserving {} bytes", bytes), path_.string());
}

void OutputFile::write_all(std::span<const std::byte> bytes) {
  write_in_pieces(bytes, descriptor_, path_, [&](auto piece) { return ::write(descriptor_, piece.data(), piece.size()); });
}

void OutputFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  write_in_pieces(bytes, descriptor_, path_, [&](auto piece) {
    const ssize_t written = ::pwrite(descriptor_, piece.data(), piece.size(), static_cast<off_t>(offset));
    if (written > 0) offset += static_cast<uint64_t>(written);
    return written;
  });
}

uint64_t OutputFile::size() const {
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0) fail_errno(errno, "reading the file's status", path_.string());
  return static_cast<uint64_t>(status.st_size);
}

void OutputFile::truncate(uint64_t bytes) {
  int result = 0;
  do result = ::ftruncate(descriptor_, static_cast<off_t>(bytes));
  while (result != 0 && errno == EINTR);
  if (result != 0) fail_errno(errno, "truncating", path_.string());
}

void OutputFile::sync() {
  int result = 0;
  do result = ::fsync(descriptor_);   // after any other failure a retry could succeed without writing
  while (result != 0 && errno == EINTR);
  if (result != 0) fail_errno(errno, "syncing to disk", path_.string());
}

void OutputFile::close() {
  const int descriptor = std::exchange(descriptor_, -1);
  if (descriptor >= 0 && ::close(descriptor) != 0 && errno != EINTR) fail_errno(errno, "closing the file", path_.string());
}

}  // namespace longlora
