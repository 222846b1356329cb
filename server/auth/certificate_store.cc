#include "server/auth/certificate_store.h"

#include "config/base/status_macros.h"

namespace moed {

absl::StatusOr<std::unique_ptr<CertificateStore>> CertificateStore::Load(CertificatePaths paths,
                                                                         absl::Time now) {
  std::unique_ptr<CertificateStore> store(new CertificateStore(std::move(paths)));
  MOED_RETURN_IF_ERROR(store->Reload(now));
  return store;
}

absl::Status CertificateStore::Reload(absl::Time now) {
  MOED_ASSIGN_OR_RETURN(CertificateSet set, LoadCertificates(paths_, now));
  absl::MutexLock lock(&mutex_);
  if (version_.set != nullptr && *version_.set == set) return absl::OkStatus();
  version_ = {.number = version_.number + 1,
              .set = std::make_shared<const CertificateSet>(std::move(set))};
  return absl::OkStatus();
}

CertificateStore::Version CertificateStore::current() const {
  absl::MutexLock lock(&mutex_);
  return version_;
}

}  // namespace moed
