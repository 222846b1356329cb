#include "engine/weights/checkpoint.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"
#include "config/json_reader.h"
#include "config/text_file.h"

namespace moed {
namespace {

bool IsPlainFileName(const std::string& name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string("/\\\0", 3)) == std::string::npos;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& model_dir) {
  const std::string single = absl::StrCat(model_dir, "/model.safetensors");
  const std::string index = absl::StrCat(model_dir, "/model.safetensors.index.json");
  Checkpoint checkpoint;
  if (::access(single.c_str(), F_OK) == 0) {
    MOED_RETURN_IF_ERROR(checkpoint.AddFile(single));
    const SafetensorsFile& file = checkpoint.files_.at(single);
    for (const auto& [name, info] : file.tensors()) {
      checkpoint.tensors_.emplace(name, Tensor{&file, &info});
    }
  } else if (::access(index.c_str(), F_OK) == 0) {
    MOED_RETURN_IF_ERROR(checkpoint.AddShards(model_dir, index));
  } else {
    return absl::NotFoundError(absl::StrCat("'", model_dir, "' holds no weights: expected ",
                                            "model.safetensors or model.safetensors.index.json"));
  }
  return checkpoint;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  if (files_.contains(path)) return absl::OkStatus();
  MOED_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  files_.emplace(path, std::move(file));
  return absl::OkStatus();
}

absl::Status Checkpoint::AddShards(const std::string& model_dir, const std::string& index_path) {
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(index_path));
  MOED_ASSIGN_OR_RETURN(const JsonReader json, JsonReader::Parse(text, index_path));
  const std::optional<JsonReader> weight_map = json.Object("weight_map");
  if (!weight_map) json.FailExpected("weight_map", "an object");
  MOED_RETURN_IF_ERROR(json.status());
  for (const std::string& name : weight_map->Keys()) {
    const std::string file_name = weight_map->String(name);
    if (!IsPlainFileName(file_name)) {
      weight_map->FailExpected(name, "the name of a file beside the index");
    }
    MOED_RETURN_IF_ERROR(json.status());
    const std::string path = absl::StrCat(model_dir, "/", file_name);
    MOED_RETURN_IF_ERROR(AddFile(path));
    const SafetensorsFile& file = files_.at(path);
    const auto it = file.tensors().find(name);
    if (it == file.tensors().end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          index_path, ": tensor '", name, "' is said to be in '", path, "', but is not"));
    }
    tensors_.emplace(name, Tensor{&file, &it->second});
  }
  return absl::OkStatus();
}

const Checkpoint::Tensor* Checkpoint::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace moed
