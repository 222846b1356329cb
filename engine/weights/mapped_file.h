#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "absl/status/statusor.h"

namespace moed {

/// A regular file mapped read-only. Owned by a SafetensorsFile; any thread may read.
///
/// Pages come in only where Prefetch() or a read asks for them: read-ahead is off, so that a rank
/// reads from disk no more than what it holds. The file must not shrink while it is mapped
/// (SIGBUS).
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Starts reading a part of bytes() in the background.
  void Prefetch(std::span<const std::byte> part) const;
  /// Gives the memory of the whole pages of a part of bytes() back; they may be read again later.
  void Release(std::span<const std::byte> part) const;

 private:
  MappedFile(const std::byte* data, size_t size) : data_(data), size_(size) {}
  void Unmap();

  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace moed
