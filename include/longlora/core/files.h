#pragma once
// Files: bounded, symlink-safe reading and all-or-nothing writing.
//
// Goals: no input file can block the program or be changed under it unnoticed; an output is complete or absent.
// Non-goals: mmap (a file truncated while mapped is SIGBUS), buffered streams, Windows.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace longlora {

namespace fs = std::filesystem;

/// A regular file opened for reading, with its size and mtime at opening. Movable; thread-safe for `read`.
class InputFile {
 public:
  /// Opens with O_NONBLOCK|O_CLOEXEC, then fstat: anything but a regular file is ErrorKind::data; absent: missing; EACCES: permission.
  explicit InputFile(const fs::path& path);
  /// Opens `name` (one path component) inside `folder`. A symlink is followed only if its real path stays inside the folder or in
  /// `../../blobs/` of it (hub cache layout); else ErrorKind::data.
  static InputFile open_in(const fs::path& folder, const std::string& name);

  InputFile(InputFile&&) noexcept;
  InputFile& operator=(InputFile&&) noexcept;
  ~InputFile();

  uint64_t size() const { return size_; }
  const fs::path& path() const { return path_; }
  /// pread in pieces of at most 8 MiB, exactly out.size() bytes; end of file before that is ErrorKind::data "changed while being read".
  void read(uint64_t offset, std::span<std::byte> out) const;
  std::string read_text(uint64_t offset, uint64_t bytes) const;
  /// ErrorKind::data when size or mtime differ from those at opening.
  void check_unchanged() const;

 private:
  InputFile() = default;
  static InputFile adopt(int descriptor, const fs::path& path);   // checks and owns an opened descriptor
  int descriptor_ = -1;
  uint64_t size_ = 0;
  int64_t mtime_seconds_ = 0, mtime_nanoseconds_ = 0;
  fs::path path_;
};

/// The whole file as text; larger than `max_bytes` is ErrorKind::data naming the limit.
std::string read_file(const fs::path&, uint64_t max_bytes);

/// A file descriptor for writing. Every error throws with the right kind (ENOSPC, EDQUOT, EFBIG, EIO: io). `close` is checked.
class OutputFile {
 public:
  /// O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC. Existing file: ErrorKind::busy.
  static OutputFile create(const fs::path&);
  static OutputFile append(const fs::path&);                  // creates if absent
  OutputFile(OutputFile&&) noexcept;
  OutputFile& operator=(OutputFile&&) noexcept;
  ~OutputFile();                                              // closes without sync; errors ignored
  void allocate(uint64_t bytes);                              // fallocate; "unsupported" is tolerated
  void write_all(std::span<const std::byte>);
  void write_all(std::string_view text) { write_all(std::as_bytes(std::span(text.data(), text.size()))); }
  void write_at(uint64_t offset, std::span<const std::byte>); // pwrite
  uint64_t size() const;
  void truncate(uint64_t bytes);
  void sync();                                                // fsync; never retried after a failure
  void close();                                               // checked
  const fs::path& path() const { return path_; }

 private:
  OutputFile() = default;
  int descriptor_ = -1;
  fs::path path_;
};

/// fsync of a folder (names of files in it become durable).
void sync_folder(const fs::path&);
/// Creates every missing folder of `path` and fsyncs each new folder's parent.
void create_folders(const fs::path&);
/// renameat2(RENAME_NOREPLACE), plain rename where unsupported. Target exists: ErrorKind::busy.
void rename_noreplace(const fs::path& from, const fs::path& to);
/// Temporary file in the same folder, fsync, rename (replaces), fsync folder.
void write_file_atomic(const fs::path&, std::string_view content);
/// 64 random bits as 16 hex digits, drawn once per process: owner mark of temporary names.
const std::string& process_nonce();
/// Free bytes for unprivileged users on the file system that holds `path` (nearest existing parent).
uint64_t free_bytes(const fs::path&);

}  // namespace longlora
