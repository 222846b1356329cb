#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace moed::load {

/// What the instant server does other than answer at once.
struct InstantServerOptions {
  std::string address = "127.0.0.1:0";
  int32_t tokens_per_message = 1;
  double service_s = 0;         // each request waits for those before it to be served this long
  int64_t stall_at = -1;        // the request of this number is served for...
  double stall_s = 0;           // ...this long instead
  double token_interval_s = 0;  // between messages
  int64_t fail_every = 0;       // each such request is refused; 0 = none
  int64_t corrupt_every = 0;    // each such request gets another last token; 0 = none
  int32_t max_model_len = 100000;
};

/// A server of the public API that computes nothing: it answers a prompt at once with max_tokens
/// tokens that depend on nothing but the prompt. Its experts are a fiction: 2 layers of 8 experts
/// on 2 ranks; a token goes to the experts id % 8 and (id + layer) % 8.
///
/// Owned by a test or by main; serves until it is destroyed.
class InstantServer {
 public:
  explicit InstantServer(const InstantServerOptions& options);
  ~InstantServer();
  InstantServer(const InstantServer&) = delete;
  InstantServer& operator=(const InstantServer&) = delete;

  const std::string& address() const;
  int64_t num_requests() const;
  int64_t num_cancelled() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace moed::load
