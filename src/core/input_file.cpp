#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "longlora/core/error.h"
#include "longlora/core/files.h"

namespace longlora {

namespace {

constexpr size_t kMaxRead = size_t{8} << 20;

std::string_view kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a named pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return S_ISLNK(mode) ? "a symbolic link" : "a device";
}

[[noreturn]] void fail_not_regular(std::string_view found, const fs::path& path) {
  fail(ErrorKind::data, fmt::format("found {}, expected a regular file", found), path.string(), "give the path of a file");
}

int open_for_reading(const fs::path& path, int extra_flags) {
  for (;;) {
    // O_NONBLOCK: opening a named pipe would wait for a writer
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | extra_flags);
    if (descriptor >= 0 || errno != EINTR) return descriptor;
  }
}

[[noreturn]] void fail_open(int error_number, const fs::path& path) {
  if (error_number == ENXIO) fail_not_regular("a socket or device", path);
  if (error_number == ENOTDIR || error_number == ENAMETOOLONG) error_number = ENOENT;   // nothing can be there
  if (error_number == ELOOP)
    fail(ErrorKind::data, "symbolic links form a loop", path.string(), "give the path of a file");
  fail_errno(error_number, "opening the file", path.string());
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [folder_end, unused] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return folder_end == folder.end();
}

/// Where the link `path` leads, if that is allowed.
fs::path resolve_link(const fs::path& folder, const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::canonical(path, error);
  if (error) fail_open(error.value(), path);
  const fs::path real_folder = fs::canonical(folder, error);
  if (error) fail_open(error.value(), folder);
  const fs::path blobs = (real_folder / "../../blobs").lexically_normal();   // hub cache: snapshots/REVISION/NAME -> ../../blobs/DIGEST
  LONGLORA_CHECK(is_inside(target, real_folder) || is_inside(target, blobs), data,
                 fmt::format("a symbolic link leads out of the folder, to {}", escape(target.string(), 60)), path.string(),
                 "replace the link by the file itself");
  return target;
}

}  // namespace

InputFile::InputFile(const fs::path& path) : InputFile(adopt(open_for_reading(path, 0), path)) {}

InputFile InputFile::adopt(int descriptor, const fs::path& path) {
  if (descriptor < 0) fail_open(errno, path);
  InputFile file;
  file.descriptor_ = descriptor;   // closed by the destructor from here on
  file.path_ = path;
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) fail_errno(errno, "reading the file's status", path.string());
  if (!S_ISREG(status.st_mode)) fail_not_regular(kind_of(status.st_mode), path);
  file.size_ = static_cast<uint64_t>(status.st_size);
  file.mtime_seconds_ = status.st_mtim.tv_sec;
  file.mtime_nanoseconds_ = status.st_mtim.tv_nsec;
  return file;
}

InputFile InputFile::open_in(const fs::path& folder, const std::string& name) {
  const bool one_component = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                             name.find('\0') == std::string::npos;
  LONGLORA_CHECK(one_component, data, fmt::format("file name \"{}\" is not a plain name inside the folder", escape(name, 60)),
                 folder.string(), "name files without folders");
  const fs::path path = folder / name;
  const int descriptor = open_for_reading(path, O_NOFOLLOW);
  if (descriptor >= 0 || errno != ELOOP) return adopt(descriptor, path);
  InputFile file = adopt(open_for_reading(resolve_link(folder, path), O_NOFOLLOW), path);
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept { *this = std::move(other); }

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(path_, other.path_);
  size_ = other.size_;
  mtime_seconds_ = other.mtime_seconds_;
  mtime_nanoseconds_ = other.mtime_nanoseconds_;
  return *this;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void InputFile::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), std::min(out.size(), kMaxRead), static_cast<off_t>(offset));
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) fail_errno(errno, fmt::format("reading at byte {}", offset), path_.string());
    LONGLORA_CHECK(got > 0, data, fmt::format("changed while being read: ends at byte {}, {} more expected", offset, out.size()),
                   path_.string(), "do not write to inputs during a run; start again");
    offset += static_cast<uint64_t>(got);
    out = out.subspan(static_cast<size_t>(got));
  }
}

std::string InputFile::read_text(uint64_t offset, uint64_t bytes) const {
  std::string text(bytes, '\0');
  read(offset, std::as_writable_bytes(std::span(text.data(), text.size())));
  return text;
}

void InputFile::check_unchanged() const {
  struct stat now {};
  if (::fstat(descriptor_, &now) != 0) fail_errno(errno, "reading the file's status", path_.string());
  const bool same = static_cast<uint64_t>(now.st_size) == size_ && now.st_mtim.tv_sec == mtime_seconds_ &&
                    now.st_mtim.tv_nsec == mtime_nanoseconds_;
  LONGLORA_CHECK(same, data, fmt::format("changed while being read: {} bytes at opening, {} now", size_, now.st_size), path_.string(),
                 "do not write to inputs during a run; start again");
}

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  const InputFile file(path);
  LONGLORA_CHECK(file.size() <= max_bytes, data, fmt::format("{} bytes, at most {} allowed", file.size(), max_bytes), path.string(),
                 "give the right file");
  std::string text = file.read_text(0, file.size());
  file.check_unchanged();
  return text;
}

}  // namespace longlora
