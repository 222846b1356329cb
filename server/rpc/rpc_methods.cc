#include "server/rpc/rpc_methods.h"

#include <google/protobuf/descriptor.h>

#include "absl/strings/str_cat.h"
#include "moed/v1/admin.pb.h"
#include "moed/v1/inference.pb.h"

namespace moed {
namespace {

void AddMethods(const google::protobuf::FileDescriptor& file, std::vector<std::string>& names) {
  for (int s = 0; s < file.service_count(); ++s) {
    const google::protobuf::ServiceDescriptor& service = *file.service(s);
    for (int m = 0; m < service.method_count(); ++m) {
      names.push_back(absl::StrCat(service.full_name(), "/", service.method(m)->name()));
    }
  }
}

}  // namespace

std::vector<std::string> RpcMethodNames() {
  std::vector<std::string> names;
  AddMethods(*v1::GenerateRequest::descriptor()->file(), names);
  AddMethods(*v1::GetStatusRequest::descriptor()->file(), names);
  return names;
}

}  // namespace moed
