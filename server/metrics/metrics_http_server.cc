#include "server/metrics/metrics_http_server.h"

#include <CivetServer.h>

#include <exception>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "server/metrics/status_page.h"

namespace moed {
namespace {

constexpr const char* kTextType = "text/plain; charset=utf-8";
constexpr const char* kMetricsType = "text/plain; version=0.0.4; charset=utf-8";
constexpr const char* kJsonType = "application/json";
constexpr const char* kPageType = "text/html; charset=utf-8";

// The page needs itself and what it asks this server for; whatever else gets into it must not run.
constexpr const char* kSafetyHeaders =
    "Content-Security-Policy: default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'\r\n"
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n"
    "Cache-Control: no-store\r\n";

struct Answer {
  int status = 200;
  std::string body;
};

// Answers GET on one path with what a function returns.
class PageHandler : public CivetHandler {
 public:
  PageHandler(const char* content_type, std::function<Answer()> answer)
      : content_type_(content_type), answer_(std::move(answer)) {}

  bool handleGet(CivetServer*, mg_connection* connection) override {
    const Answer answer = answer_();
    const std::string head = absl::StrFormat(
        "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\n%sConnection: close\r\n\r\n",
        answer.status, answer.status == 200 ? "OK" : "Service Unavailable", content_type_,
        answer.body.size(), kSafetyHeaders);
    mg_write(connection, head.data(), head.size());
    mg_write(connection, answer.body.data(), answer.body.size());
    return true;
  }

 private:
  const char* content_type_;
  const std::function<Answer()> answer_;
};

Answer Readiness(ServingState state) {
  return {.status = state == ServingState::kServing ? 200 : 503,
          .body = std::string(Name(state)) + "\n"};
}

// A thread waits for each open connection: a few that say nothing must not delay a health probe.
// The library speaks exceptions; this is where they end.
std::unique_ptr<CivetServer> StartServer(const std::string& listen) {
  const std::vector<std::string> options = {"listening_ports",    listen, "num_threads", "8",
                                            "request_timeout_ms", "1000"};
  try {
    return std::make_unique<CivetServer>(options);
  } catch (const std::exception&) {
    return nullptr;
  }
}

// Opens a connection and closes it.
void Knock(const std::string& address) {
  const size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with("[")) host = host.substr(1, host.size() - 2);
  char error[256];
  mg_connection* connection = mg_connect_client(host.c_str(), std::stoi(address.substr(colon + 1)),
                                                0, error, sizeof(error));
  if (connection != nullptr) mg_close_connection(connection);
}

}  // namespace

struct MetricsHttpServer::Parts {
  explicit Parts(Params params)
      : metrics(kMetricsType,
                [text = std::move(params.metrics_text)] {
                  return Answer{200, text()};
                }),
        healthz(kTextType,
                [] {
                  return Answer{200, "ok\n"};
                }),
        experts(kJsonType,
                [json = std::move(params.experts_json)] {
                  return Answer{200, json()};
                }),
        page(kPageType,
             [] {
               return Answer{200, kStatusPage};
             }),
        readyz(kTextType, [state = std::move(params.state)] { return Readiness(state()); }) {}

  PageHandler metrics;
  PageHandler healthz;
  PageHandler experts;
  PageHandler page;
  PageHandler readyz;
  std::string address;
  std::unique_ptr<CivetServer> server;  // last: goes first
};

MetricsHttpServer::MetricsHttpServer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

// The library looks at its stop flag when something connects, or else every two seconds: something
// connects.
MetricsHttpServer::~MetricsHttpServer() {
  absl::Notification stopped;
  std::thread stopper([this, &stopped] {
    parts_->server->close();
    stopped.Notify();
  });
  do {
    Knock(parts_->address);
  } while (!stopped.WaitForNotificationWithTimeout(absl::Milliseconds(5)));
  stopper.join();
}

absl::StatusOr<std::unique_ptr<MetricsHttpServer>> MetricsHttpServer::Start(Params params) {
  const std::string listen = params.listen;
  auto parts = std::make_unique<Parts>(std::move(params));
  parts->server = StartServer(listen);
  const std::vector<int> ports =
      parts->server != nullptr ? parts->server->getListeningPorts() : std::vector<int>();
  if (ports.empty()) {
    return absl::UnavailableError(absl::StrFormat(
        "cannot listen on %s for metrics: the address is in use or not ours", listen));
  }
  parts->address = absl::StrFormat("%s:%d", listen.substr(0, listen.rfind(':')), ports[0]);
  parts->server->addHandler("/metrics", parts->metrics);
  parts->server->addHandler("/healthz", parts->healthz);
  parts->server->addHandler("/readyz", parts->readyz);
  parts->server->addHandler("/experts.json", parts->experts);
  parts->server->addHandler("/$", parts->page);  // without the $ it would answer every path
  return std::unique_ptr<MetricsHttpServer>(new MetricsHttpServer(std::move(parts)));
}

const std::string& MetricsHttpServer::address() const { return parts_->address; }

}  // namespace moed
