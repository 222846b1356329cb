#include "server/auth/reloaded_secrets.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/time/clock.h"
#include "config/base/status_macros.h"
#include "config/logging.h"

namespace moed {
namespace {

void ReloadTokens(TokenAuthenticator& authenticator) {
  if (const absl::Status status = authenticator.Reload(); !status.ok()) {
    SPDLOG_ERROR("event=tokens_kept error=\"{}\"", absl::CEscape(status.message()));
    return;
  }
  SPDLOG_INFO("event=tokens_loaded num_tokens={}", authenticator.num_tokens());
}

void ReloadCertificates(CertificateStore& store) {
  if (const absl::Status status = store.Reload(absl::Now()); !status.ok()) {
    SPDLOG_ERROR("event=certificates_kept error=\"{}\"", absl::CEscape(status.message()));
    return;
  }
  SPDLOG_INFO("event=certificates_loaded version={}", store.current().number);
}

}  // namespace

// Each watcher starts after a first reading, so what changed in between is read at once.
absl::StatusOr<std::unique_ptr<ReloadedSecrets>> ReloadedSecrets::Load(const Params& params) {
  std::unique_ptr<ReloadedSecrets> secrets(new ReloadedSecrets());
  const auto watch = [&](std::vector<std::string> paths, std::function<void()> reload) {
    secrets->watchers_.push_back(std::make_unique<FileWatcher>(FileWatcher::Params{
        .paths = std::move(paths), .interval = params.interval, .on_change = reload}));
    reload();
  };
  if (!params.token_file.empty()) {
    MOED_ASSIGN_OR_RETURN(secrets->authenticator_,
                          TokenAuthenticator::Load(params.token_file, params.methods));
    watch({params.token_file}, [&tokens = *secrets->authenticator_] { ReloadTokens(tokens); });
  }
  if (const CertificatePaths& paths = params.certificates; !paths.certificate.empty()) {
    MOED_ASSIGN_OR_RETURN(secrets->certificates_, CertificateStore::Load(paths, absl::Now()));
    watch({paths.certificate, paths.key, paths.client_ca},
          [&store = *secrets->certificates_] { ReloadCertificates(store); });
  }
  return secrets;
}

}  // namespace moed
