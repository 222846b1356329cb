#include "engine/weights/safetensors_file.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "config/base/checked_math.h"
#include "config/base/status_macros.h"
#include "config/json_reader.h"

namespace moed {
namespace {

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the same cap as the safetensors library
constexpr size_t kMaxDims = 8;

struct StoredType {
  absl::string_view name;
  uint64_t size_bytes;
  std::optional<DType> dtype;
};

constexpr StoredType kStoredTypes[] = {
    {"F32", 4, DType::kF32},      {"BF16", 2, DType::kBF16},      {"F16", 2, DType::kF16},
    {"I32", 4, DType::kI32},      {"BOOL", 1, std::nullopt},      {"U8", 1, std::nullopt},
    {"I8", 1, std::nullopt},      {"F8_E4M3", 1, DType::kF8E4M3}, {"F8_E5M2", 1, std::nullopt},
    {"F8_E8M0", 1, std::nullopt}, {"U16", 2, std::nullopt},       {"I16", 2, std::nullopt},
    {"U32", 4, std::nullopt},     {"F64", 8, std::nullopt},       {"I64", 8, std::nullopt},
    {"U64", 8, std::nullopt},
};

uint64_t LittleEndian64(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) value |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  return value;
}

const StoredType* FindType(absl::string_view name) {
  const auto* it = std::find_if(std::begin(kStoredTypes), std::end(kStoredTypes),
                                [&](const StoredType& type) { return type.name == name; });
  return it == std::end(kStoredTypes) ? nullptr : it;
}

std::optional<uint64_t> SizeOf(const StoredType& type, const std::vector<int64_t>& shape) {
  std::optional<uint64_t> bytes = type.size_bytes;
  for (const int64_t dim : shape) {
    if (bytes) bytes = CheckedMul(*bytes, static_cast<uint64_t>(dim));
  }
  return bytes;
}

// One entry of the header; what is wrong goes to json.status().
TensorInfo ReadTensor(const JsonReader& json, size_t data_bytes) {
  TensorInfo tensor;
  tensor.dtype_name = json.String("dtype");
  for (const absl::string_view key : {"shape", "data_offsets"}) {
    if (!json.Has(key)) json.FailExpected(key, "a list of integers");
  }
  tensor.shape = json.IntList("shape", {0});
  const std::vector<int64_t> offsets = json.IntList("data_offsets", {0});
  const StoredType* type = FindType(tensor.dtype_name);
  if (type == nullptr) json.FailExpected("dtype", "a safetensors type such as BF16");
  if (tensor.shape.size() > kMaxDims) {
    json.FailExpected("shape", absl::StrCat("at most ", kMaxDims, " dimensions"));
  }
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    json.FailExpected("data_offsets", "a begin and an end");
  }
  if (!json.status().ok()) return tensor;
  tensor.dtype = type->dtype;
  tensor.begin = static_cast<size_t>(offsets[0]);
  tensor.end = static_cast<size_t>(offsets[1]);
  if (tensor.end > data_bytes) {
    json.FailExpected("data_offsets",
                      absl::StrCat("an end within the ", data_bytes,
                                   " bytes of data that the file has (is it truncated?)"));
  }
  const std::optional<uint64_t> bytes = SizeOf(*type, tensor.shape);
  if (bytes != tensor.end - tensor.begin) {
    json.FailExpected("data_offsets",
                      absl::StrCat(bytes ? absl::StrCat(*bytes) : "more than 2^64",
                                   " bytes, as dtype and shape ", json.Describe("shape"), " say"));
  }
  return tensor;
}

// The tensors must lie one after the other and fill the data section.
absl::Status CheckCoverage(const std::map<std::string, TensorInfo>& tensors, size_t data_bytes) {
  using Entry = std::pair<const std::string, TensorInfo>;
  std::vector<const Entry*> sorted;
  for (const Entry& entry : tensors) sorted.push_back(&entry);
  std::sort(sorted.begin(), sorted.end(), [](const Entry* a, const Entry* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  size_t end = 0;
  for (const Entry* entry : sorted) {
    if (entry->second.begin != end) {
      return absl::DataLossError(absl::StrCat("tensor '", entry->first, "' begins at byte ",
                                              entry->second.begin,
                                              ", expected the end of the one before it, ", end,
                                              entry->second.begin < end ? " (they overlap)" : ""));
    }
    end = entry->second.end;
  }
  if (end == data_bytes) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("the file has ", data_bytes, " bytes of data, but its tensors end at ", end));
}

absl::Status AsDataLoss(const absl::Status& status) {
  return status.ok() ? status : absl::DataLossError(status.message());
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  MOED_ASSIGN_OR_RETURN(MappedFile mapped, MappedFile::Open(path));
  SafetensorsFile file(path, std::move(mapped));
  MOED_RETURN_IF_ERROR(file.ParseHeader());
  return file;
}

absl::Status SafetensorsFile::ParseHeader() {
  const std::span<const std::byte> bytes = file_.bytes();
  if (bytes.size() < kLengthBytes) {
    return absl::DataLossError(
        absl::StrCat("'", path_, "' has ", bytes.size(), " bytes, too few for a safetensors file"));
  }
  const uint64_t header_bytes = LittleEndian64(bytes);
  if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, bytes.size() - kLengthBytes)) {
    return absl::DataLossError(absl::StrCat("'", path_, "': the header is said to have ",
                                            header_bytes, " bytes, expected at most ",
                                            kMaxHeaderBytes, " and no more than the file's ",
                                            bytes.size() - kLengthBytes, " (is it truncated?)"));
  }
  const std::span<const std::byte> header = bytes.subspan(kLengthBytes, header_bytes);
  data_ = bytes.subspan(kLengthBytes + header_bytes);
  const absl::string_view text(reinterpret_cast<const char*>(header.data()), header.size());
  const absl::StatusOr<JsonReader> json = JsonReader::Parse(text, path_);
  MOED_RETURN_IF_ERROR(AsDataLoss(json.status()));
  for (const std::string& name : json->Keys()) {
    if (name == "__metadata__") continue;
    const std::optional<JsonReader> entry = json->Object(name);
    if (!entry) json->FailExpected(name, "an object that describes a tensor");
    if (entry) tensors_.emplace(name, ReadTensor(*entry, data_.size()));
    MOED_RETURN_IF_ERROR(AsDataLoss(json->status()));
  }
  const absl::Status coverage = CheckCoverage(tensors_, data_.size());
  if (coverage.ok()) return coverage;
  return absl::DataLossError(absl::StrCat("'", path_, "': ", coverage.message()));
}

}  // namespace moed
