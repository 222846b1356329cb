#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "config/base/dtype.h"
#include "engine/weights/mapped_file.h"

namespace moed {

/// What a header says about one tensor.
struct TensorInfo {
  std::string dtype_name;      // as written, e.g. "BF16"
  std::optional<DType> dtype;  // unset for types that exist in files but not in engines
  std::vector<int64_t> shape;  // each >= 0
  size_t begin = 0;            // byte offsets into the data section
  size_t end = 0;
};

/// One .safetensors file: a little-endian u64 N, N bytes of JSON that describe the tensors, then
/// their data. Owned by a Checkpoint; immutable, any thread may read.
///
/// Open() believes nothing: every size is computed with overflow checks, and the tensors must cover
/// the data section exactly, without overlaps, holes, or bytes beyond, as the format demands.
class SafetensorsFile {
 public:
  /// NOT_FOUND or another errno status if it cannot be opened; DATA_LOSS naming file and tensor if
  /// it is truncated or contradicts itself.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return path_; }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }

  /// The bytes of a tensor of tensors(). The address need not be aligned for its dtype.
  std::span<const std::byte> Data(const TensorInfo& tensor) const {
    return data_.subspan(tensor.begin, tensor.end - tensor.begin);
  }
  /// Parts of Data(): see MappedFile.
  void Prefetch(std::span<const std::byte> part) const { file_.Prefetch(part); }
  void Release(std::span<const std::byte> part) const { file_.Release(part); }

 private:
  SafetensorsFile(std::string path, MappedFile file)
      : path_(std::move(path)), file_(std::move(file)) {}
  absl::Status ParseHeader();

  std::string path_;
  MappedFile file_;
  std::span<const std::byte> data_;  // the data section of file_
  std::map<std::string, TensorInfo> tensors_;
};

}  // namespace moed
