#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace moed {

/// Everything the daemon can be told, by a config file or by flags. A value.
struct DaemonConfig {
  // The model.
  std::string model;              // a model directory; empty = the bundled demo model
  std::string served_model_name;  // empty = the last part of `model`
  std::string load_format = "auto";
  int64_t dummy_seed = 0;
  std::string dtype = "bf16";
  std::string numerics = "invariant";
  int32_t max_model_len = 0;  // tokens; 0 = the model's own limit

  // The ranks.
  int32_t ranks = 1;
  std::string device = "cpu";     // or "cuda": rank N on GPU N; or "cuda:N": all on one GPU
  std::string nccl_library;       // of ranks on GPUs; empty = libnccl.so.2
  std::string exchange = "auto";  // how ranks exchange rows; on GPUs: measured at the start
  int32_t threads = 0;            // of one rank; 0 = cores / ranks
  std::string instruction_set;    // empty = the best of this machine
  std::string expert_placement = "linear";
  std::string engine_binary;    // empty = moed-engine beside moed
  double step_timeout_s = 600;  // a dead engine is noticed at once: this is for one that hangs
  double load_timeout_s = 3600;

  // KV memory.
  std::string kv_dtype = "bf16";
  int32_t block_size = 16;      // tokens
  int32_t num_blocks = 0;       // of one rank; 0 = what fits
  double memory_limit_gib = 0;  // of all local ranks together; 0 = what the machine has left
  bool prefix_caching = true;

  // Batching and admission.
  int32_t max_tokens_per_step = 512;    // of one rank
  int32_t max_sequences_per_step = 64;  // of one rank
  int32_t max_waiting_requests = 256;
  int64_t max_waiting_tokens = 1 << 22;  // of the prompts that wait
  int32_t max_tenant_requests = 1024;    // of one tenant at a time, where its limits do not say
  int32_t tokenizer_threads = 0;         // 0 = a quarter of the cores, 4 at most
  int64_t max_text_bytes = 1 << 20;      // of one prompt
  int64_t max_pending_bytes =
      4 << 20;  // unsent output of one request, before a slow reader is cut off

  // The front.
  std::string listen = "127.0.0.1:50051";
  std::string metrics_listen = "127.0.0.1:9090";  // empty = off
  bool metrics_vllm_aliases = false;              // vLLM's names for metrics as well
  std::string admin_listen;                       // empty = at `listen` as well
  std::string socket_mode = "0600";               // of the unix socket at `listen`, in octal
  std::string tls_cert;                           // empty = plaintext
  std::string tls_key;
  std::string tls_client_ca;     // empty = clients need no certificate
  std::string token_file;        // empty = no authentication
  double reload_interval_s = 1;  // how often files of tokens and certificates are looked at
  bool insecure = false;         // listen beyond this machine without TLS and tokens
  bool reflection = false;       // serve grpc.reflection
  std::string ready_file;        // empty = none
  double drain_timeout_s = 30;
  std::string log_level = "info";
};

/// One setting: a key of the config file, and a flag of the same name (with '-' for '_').
struct ConfigField {
  using Member =
      std::variant<std::string DaemonConfig::*, int32_t DaemonConfig::*, int64_t DaemonConfig::*,
                   double DaemonConfig::*, bool DaemonConfig::*>;

  absl::string_view key;
  Member member;
  absl::string_view help;
  double min = 0;  // of a number, inclusive
  double max = std::numeric_limits<int32_t>::max();
  absl::string_view choices = {};  // of a string: "a|b|c"; empty = anything
};

/// The one table of settings, in the order in which --help shows them.
std::span<const ConfigField> DaemonConfigFields();

/// Applies a config file's text on top of `config`. INVALID_ARGUMENT names the key at fault; a key
/// that is no setting is refused by name.
absl::Status ApplyConfigJson(absl::string_view json_text, const std::string& source,
                             DaemonConfig& config);

/// Reads the file and applies it.
absl::Status ApplyConfigFile(const std::string& path, DaemonConfig& config);

/// Sets one field from the text of a flag. INVALID_ARGUMENT names the flag, what was seen and
/// expected.
absl::Status SetConfigField(const ConfigField& field, const std::string& text,
                            DaemonConfig& config);

/// What no single field can show: combinations and addresses. INVALID_ARGUMENT names the setting.
absl::Status ValidateDaemonConfig(const DaemonConfig& config);

/// OK for "HOST:PORT", "[IPV6]:PORT" and "unix:PATH".
absl::Status ValidateListenAddress(const std::string& address);

/// Whether only this machine can reach a good address: a unix socket, localhost, 127.x.x.x, [::1].
bool IsLocalAddress(const std::string& address);

/// The bits of a socket's mode, given in octal: read and write for owner, group and others.
absl::StatusOr<int32_t> ParseSocketMode(const std::string& text);

}  // namespace moed
