#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/weights/safetensors_file.h"

namespace moed {

/// The tensors of a model directory by name, from `model.safetensors` or from the shards that
/// `model.safetensors.index.json` names. Owned by the loader, for the time of loading; one thread.
class Checkpoint {
 public:
  struct Tensor {
    const SafetensorsFile* file = nullptr;
    const TensorInfo* info = nullptr;
  };

  /// NOT_FOUND if the directory has neither file; INVALID_ARGUMENT for an index that names files
  /// outside the directory or tensors that are not in their file; otherwise as
  /// SafetensorsFile::Open.
  static absl::StatusOr<Checkpoint> Open(const std::string& model_dir);

  /// With an index: the tensors it lists and no others.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  /// Null when there is no such tensor.
  const Tensor* Find(const std::string& name) const;

 private:
  Checkpoint() = default;
  absl::Status AddFile(const std::string& path);
  absl::Status AddShards(const std::string& model_dir, const std::string& index_path);

  std::map<std::string, SafetensorsFile> files_;  // by path; a map keeps their addresses
  std::map<std::string, Tensor> tensors_;
};

}  // namespace moed
