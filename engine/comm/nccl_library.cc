#include "engine/comm/nccl_library.h"

#include <dlfcn.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed::nccl {
namespace {

constexpr char kDefaultName[] = "libnccl.so.2";

std::string LastLoadError() {
  const char* error = dlerror();
  return error == nullptr ? "unknown error" : error;
}

/// Looks up functions and remembers the first that is missing. Lives during one Load.
class SymbolReader {
 public:
  explicit SymbolReader(void* handle) : handle_(handle) {}

  template <typename Function>
  void Read(const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(handle_, name));
    if (function == nullptr && missing_.empty()) missing_ = name;
  }

  const std::string& missing() const { return missing_; }

 private:
  void* handle_;
  std::string missing_;
};

std::string ReadSymbols(void* handle, Library& library) {
  SymbolReader symbols(handle);
  symbols.Read("ncclGetVersion", library.GetVersion);
  symbols.Read("ncclGetUniqueId", library.GetUniqueId);
  symbols.Read("ncclCommInitRankConfig", library.CommInitRankConfig);
  symbols.Read("ncclCommDestroy", library.CommDestroy);
  symbols.Read("ncclCommAbort", library.CommAbort);
  symbols.Read("ncclCommGetAsyncError", library.CommGetAsyncError);
  symbols.Read("ncclGetErrorString", library.GetErrorString);
  symbols.Read("ncclGetLastError", library.GetLastError);
  symbols.Read("ncclGroupStart", library.GroupStart);
  symbols.Read("ncclGroupEnd", library.GroupEnd);
  symbols.Read("ncclSend", library.Send);
  symbols.Read("ncclRecv", library.Recv);
  symbols.Read("ncclAllGather", library.AllGather);
  return symbols.missing();
}

}  // namespace

absl::StatusOr<Library> Library::Load(const std::string& path) {
  Library library;
  library.path = path.empty() ? kDefaultName : path;
  void* handle = dlopen(library.path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("loading NCCL, which ranks on GPUs exchange rows through, from ", library.path,
                     ": ", LastLoadError()));
  }
  if (const std::string missing = ReadSymbols(handle, library); !missing.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "loading NCCL from ", library.path, ": it has no ", missing, ", expected 2.17 or later"));
  }
  const Result result = library.GetVersion(&library.version);
  if (result != kSuccess || library.version < kOldestVersion) {
    return absl::FailedPreconditionError(absl::StrCat("loading NCCL from ", library.path,
                                                      ": its version is ", library.version,
                                                      ", expected ", kOldestVersion, " or later"));
  }
  return library;
}

}  // namespace moed::nccl
