#include "engine/comm/ucx_worker.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "config/base/status_macros.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kFlushTime{500};  // of a good-bye
constexpr std::chrono::milliseconds kAbandonTime{2000};
/// How soon a peer is noticed that vanished without closing its connections. UCX's own is 20 s.
constexpr char kKeepaliveInterval[] = "2s";

absl::Status UcxError(absl::string_view doing, ucs_status_t status) {
  return absl::UnavailableError(absl::StrCat(doing, ": UCX says: ", ucs_status_string(status)));
}

/// What users set by UCX's environment variables stands.
absl::StatusOr<ucp_config_t*> ReadConfig() {
  ucp_config_t* config = nullptr;
  if (const ucs_status_t status = ucp_config_read(nullptr, nullptr, &config); status != UCS_OK) {
    return UcxError("reading UCX's configuration", status);
  }
  if (std::getenv("UCX_KEEPALIVE_INTERVAL") == nullptr) {
    ucp_config_modify(config, "KEEPALIVE_INTERVAL", kKeepaliveInterval);  // old UCX has none
  }
  return config;
}

void OnSent(void*, ucs_status_t status, void* transfer) {
  static_cast<UcxTransfer*>(transfer)->status = status;
}

void OnReceived(void*, ucs_status_t status, const ucp_tag_recv_info_t* info, void* transfer) {
  auto& received = *static_cast<UcxTransfer*>(transfer);
  received.info = *info;
  received.status = status;
}

void OnLost(void* status_of_connection, ucp_ep_h, ucs_status_t status) {
  *static_cast<ucs_status_t*>(status_of_connection) = status;
}

/// Takes what a call of UCX returned: done at once, failed, or under way.
void Begin(ucs_status_ptr_t result, UcxTransfer& transfer) {
  if (UCS_PTR_IS_ERR(result)) {
    transfer.status = UCS_PTR_STATUS(result);
  } else if (result == nullptr) {
    transfer.status = UCS_OK;
  } else {
    transfer.request = result;  // the callback may have come already
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<UcxWorker>> UcxWorker::Create() {
  std::unique_ptr<UcxWorker> worker(new UcxWorker());
  MOED_RETURN_IF_ERROR(worker->Open());
  return worker;
}

absl::Status UcxWorker::Open() {
  MOED_ASSIGN_OR_RETURN(ucp_config_t* const config, ReadConfig());
  const ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES,
                               .features = UCP_FEATURE_TAG | UCP_FEATURE_WAKEUP};
  ucs_status_t status = ucp_init(&params, config, &context_);
  ucp_config_release(config);
  if (status != UCS_OK) return UcxError("starting UCX", status);
  const ucp_worker_params_t worker_params = {
      .field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE | UCP_WORKER_PARAM_FIELD_EVENTS,
      .thread_mode = UCS_THREAD_MODE_SINGLE,
      .events = UCP_WAKEUP_TAG_RECV | UCP_WAKEUP_TAG_SEND | UCP_WAKEUP_RX | UCP_WAKEUP_TX};
  status = ucp_worker_create(context_, &worker_params, &worker_);
  if (status != UCS_OK) return UcxError("making a worker of UCX", status);
  status = ucp_worker_get_efd(worker_, &event_fd_);
  return status == UCS_OK ? absl::OkStatus() : UcxError("asking UCX for its descriptor", status);
}

UcxWorker::~UcxWorker() {
  Close(Closing::kFlush);
  if (worker_ != nullptr) ucp_worker_destroy(worker_);
  if (context_ != nullptr) ucp_cleanup(context_);
}

absl::StatusOr<std::string> UcxWorker::Address() const {
  ucp_address_t* address = nullptr;
  size_t bytes = 0;
  const ucs_status_t status = ucp_worker_get_address(worker_, &address, &bytes);
  if (status != UCS_OK) return UcxError("asking UCX for this rank's address", status);
  std::string out(reinterpret_cast<const char*>(address), bytes);
  ucp_worker_release_address(worker_, address);
  return out;
}

absl::Status UcxWorker::Connect(std::span<const std::string> addresses, int32_t own_rank) {
  connections_.resize(addresses.size());
  for (size_t rank = 0; rank < addresses.size(); ++rank) {
    if (static_cast<int32_t>(rank) == own_rank) continue;
    Connection& connection = connections_[rank];
    ucp_ep_params_t params = {};
    params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE |
                        UCP_EP_PARAM_FIELD_ERR_HANDLER;
    params.address = reinterpret_cast<const ucp_address_t*>(addresses[rank].data());
    params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
    params.err_handler = {.cb = OnLost, .arg = &connection.status};
    const ucs_status_t status = ucp_ep_create(worker_, &params, &connection.endpoint);
    if (status != UCS_OK) {
      connection.endpoint = nullptr;
      return UcxError(absl::StrCat("rank ", own_rank, " connects to rank ", rank), status);
    }
  }
  return absl::OkStatus();
}

void UcxWorker::Send(int32_t peer, const void* data, size_t bytes, ucp_tag_t tag,
                     UcxTransfer& transfer) {
  const Connection& connection = connections_[static_cast<size_t>(peer)];
  transfer = {.peer = peer, .status = UCS_INPROGRESS};
  if (connection.status != UCS_OK) {
    transfer.status = connection.status;
    return;
  }
  ucp_request_param_t param = {};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA;
  param.cb.send = OnSent;
  param.user_data = &transfer;
  Begin(ucp_tag_send_nbx(connection.endpoint, data, bytes, tag, &param), transfer);
}

void UcxWorker::Receive(int32_t peer, const UcxBuffer& buffer, const UcxTagMatch& match,
                        UcxTransfer& transfer) {
  transfer = {.peer = peer, .status = UCS_INPROGRESS};
  ucp_request_param_t param = {};
  // Of a message in several parts that are here already, only the callback learns the tag.
  param.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FLAG_NO_IMM_CMPL;
  param.cb.recv = OnReceived;
  param.user_data = &transfer;
  Begin(ucp_tag_recv_nbx(worker_, buffer.data, buffer.bytes, match.tag, match.mask, &param),
        transfer);
}

void UcxWorker::Sleep(absl::Duration timeout) {
  if (ucp_worker_arm(worker_) != UCS_OK) return;  // there is something to do
  pollfd fd = {.fd = event_fd_, .events = POLLIN, .revents = 0};
  ::poll(&fd, 1, static_cast<int>(std::max<int64_t>(absl::ToInt64Milliseconds(timeout), 1)));
}

void UcxWorker::Release(std::span<UcxTransfer> transfers) {
  for (UcxTransfer& transfer : transfers) {
    if (transfer.request != nullptr && transfer.done()) ucp_request_free(transfer.request);
    if (transfer.done()) transfer.request = nullptr;
  }
}

void UcxWorker::Abandon(std::span<UcxTransfer> receives, std::span<UcxTransfer> sends) {
  for (UcxTransfer& receive : receives) {
    if (!receive.done()) ucp_request_cancel(worker_, receive.request);
  }
  Close(Closing::kForce);  // which ends the sends
  const auto is_done = [](const UcxTransfer& transfer) { return transfer.done(); };
  const Clock::time_point end = Clock::now() + kAbandonTime;
  while (!(std::ranges::all_of(receives, is_done) && std::ranges::all_of(sends, is_done)) &&
         Clock::now() < end) {
    if (!Progress()) Sleep(absl::Milliseconds(1));
  }
  Release(receives);
  Release(sends);
}

void UcxWorker::Close(Closing closing) {
  std::vector<void*> requests;
  for (Connection& connection : connections_) {
    if (connection.endpoint == nullptr) continue;
    ucp_request_param_t param = {};
    // A connection that is lost has nobody to say good-bye to.
    if (closing == Closing::kForce || connection.status != UCS_OK) {
      param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
      param.flags = UCP_EP_CLOSE_FLAG_FORCE;
    }
    const ucs_status_ptr_t result = ucp_ep_close_nbx(connection.endpoint, &param);
    if (result != nullptr && !UCS_PTR_IS_ERR(result)) requests.push_back(result);
    connection.endpoint = nullptr;
  }
  const Clock::time_point end =
      Clock::now() + (closing == Closing::kForce ? kAbandonTime : kFlushTime);
  for (void* request : requests) {
    while (ucp_request_check_status(request) == UCS_INPROGRESS && Clock::now() < end) {
      if (!Progress()) Sleep(absl::Milliseconds(1));
    }
    ucp_request_free(request);
  }
}

}  // namespace moed
