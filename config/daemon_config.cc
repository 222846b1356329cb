#include "config/daemon_config.h"

#include <arpa/inet.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "config/base/status_macros.h"
#include "config/json_reader.h"
#include "config/text_file.h"

namespace moed {
namespace {

constexpr double kGib = 1 << 30;
constexpr double kDay = 86400;
constexpr size_t kMaxUnixPathBytes = 107;  // sun_path without its terminating zero

using C = DaemonConfig;

constexpr ConfigField kFields[] = {
    {"model", &C::model, "model directory; default: the bundled demo model"},
    {"served_model_name", &C::served_model_name, "name in the API; default: the directory's name"},
    {"load_format", &C::load_format, "dummy: random weights from config.json alone", 0, 0,
     "auto|dummy"},
    {"dummy_seed", &C::dummy_seed, "seed of dummy weights"},
    {"dtype", &C::dtype, "int8, int4: smaller weights; f32: the slow oracle", 0, 0,
     "bf16|f32|int8|int4"},
    {"numerics", &C::numerics,
     "fast: cuBLAS where it wins; tokens may then depend on what else is in a batch", 0, 0,
     "invariant|fast"},
    {"max_model_len", &C::max_model_len, "prompt + generated tokens; 0: the model's own limit", 0,
     1 << 24},
    {"ranks", &C::ranks, "number of engine processes", 1, 8},
    {"device", &C::device,
     "where the engines compute: cpu; cuda: rank N on GPU N; cuda:N: all on one GPU, for tests"},
    {"nccl_library", &C::nccl_library,
     "file that GPU ranks exchange through; default: libnccl.so.2"},
    {"exchange", &C::exchange, "how the ranks exchange rows; auto: measured at the start on GPUs",
     0, 0, "auto|all_to_all|all_gather|measured"},
    {"threads", &C::threads, "compute threads of one rank; 0: cores / ranks", 0, 1024},
    {"instruction_set", &C::instruction_set,
     "force the kernels' instruction set; default: the best"},
    {"expert_placement", &C::expert_placement, "linear, round_robin, or a JSON file"},
    {"engine_binary", &C::engine_binary, "default: moed-engine beside moed"},
    {"step_timeout_s", &C::step_timeout_s, "longest step before the engines count as lost", 0.1,
     kDay},
    {"load_timeout_s", &C::load_timeout_s, "longest start of the engines", 1, kDay},
    {"kv_dtype", &C::kv_dtype, "element type of the KV cache", 0, 0, "bf16|f32"},
    {"block_size", &C::block_size, "tokens of one KV block", 1, 256},
    {"num_blocks", &C::num_blocks, "KV blocks of one rank; 0: what fits", 0, 1 << 26},
    {"memory_limit_gib", &C::memory_limit_gib,
     "memory of all ranks together; 0: what the machine has left", 0, 1 << 20},
    {"prefix_caching", &C::prefix_caching, "reuse the KV blocks of equal prefixes"},
    {"max_tokens_per_step", &C::max_tokens_per_step, "token budget of one rank and step", 1,
     1 << 20},
    {"max_sequences_per_step", &C::max_sequences_per_step, "sequences of one rank in one step", 1,
     1 << 16},
    {"max_waiting_requests", &C::max_waiting_requests,
     "queue bound; beyond it requests are refused", 1, 1 << 20},
    {"max_waiting_tokens", &C::max_waiting_tokens,
     "prompt tokens that may wait; beyond it requests are refused", 1, 1 << 30},
    {"max_tenant_requests", &C::max_tenant_requests,
     "Generate calls of one tenant at a time, where its own limit does not say", 1, 1 << 20},
    {"tokenizer_threads", &C::tokenizer_threads,
     "threads that turn text into tokens; 0: a quarter of the cores, 4 at most", 0, 64},
    {"max_text_bytes", &C::max_text_bytes, "longest text of one prompt", 1, 64 << 20},
    {"max_pending_bytes", &C::max_pending_bytes,
     "unsent output of one request before its slow reader is cut off", 1024, kGib},
    {"listen", &C::listen, "gRPC address: HOST:PORT (port 0: any) or unix:PATH"},
    {"metrics_listen", &C::metrics_listen,
     "HTTP address of /metrics, /healthz, /readyz and the status page /; '' = off"},
    {"metrics_vllm_aliases", &C::metrics_vllm_aliases,
     "metrics under vLLM's names as well, for dashboards and autoscalers made for it"},
    {"admin_listen", &C::admin_listen,
     "address of AdminService alone, HOST:PORT or unix:PATH; default: it is at --listen"},
    {"socket_mode", &C::socket_mode, "mode of the unix socket at --listen, in octal"},
    {"tls_cert", &C::tls_cert, "PEM file: the server's certificate chain; read again on change"},
    {"tls_key", &C::tls_key, "PEM file: its private key"},
    {"tls_client_ca", &C::tls_client_ca,
     "PEM file: who signs clients' certificates, which every client then needs (mutual TLS)"},
    {"token_file", &C::token_file,
     "tenants and hashed bearer tokens (see moedctl token); read again on change; default: no "
     "authentication"},
    {"reload_interval_s", &C::reload_interval_s,
     "how often the files of tokens and certificates are looked at", 0.01, 3600},
    {"insecure", &C::insecure, "listen beyond this machine without TLS and tokens"},
    {"reflection", &C::reflection, "serve grpc.reflection, which needs no token"},
    {"ready_file", &C::ready_file, "written when the daemon serves: JSON with its addresses"},
    {"drain_timeout_s", &C::drain_timeout_s, "how long SIGTERM waits for running requests", 0,
     kDay},
    {"log_level", &C::log_level, "least important lines to log", 0, 0,
     "trace|debug|info|warn|error|off"},
};

std::string FlagName(const ConfigField& field) {
  std::string name = absl::StrFormat("--%s", field.key);
  std::replace(name.begin(), name.end(), '_', '-');
  return name;
}

bool IsChoice(absl::string_view choices, const std::string& value) {
  if (choices.empty()) return true;
  const std::vector<std::string> all = absl::StrSplit(std::string(choices), '|');
  return std::find(all.begin(), all.end(), value) != all.end();
}

absl::Status BadFlag(const ConfigField& field, const std::string& text,
                     const std::string& expected) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s: expected %s, got '%s'", FlagName(field), expected, text));
}

std::string OneOf(const ConfigField& field) { return absl::StrFormat("one of %s", field.choices); }

std::string Range(const ConfigField& field) {
  return absl::StrFormat("from %.12g to %.12g", field.min, field.max);
}

// Sets a field from the text of its flag; one overload for each type of field.
struct FlagSetter {
  const ConfigField& field;
  const std::string& text;
  DaemonConfig& config;

  absl::Status operator()(std::string C::*member) const {
    if (!IsChoice(field.choices, text)) return BadFlag(field, text, OneOf(field));
    config.*member = text;
    return absl::OkStatus();
  }

  template <typename Int>
  absl::Status operator()(Int C::*member) const {
    Int value = 0;
    if (!absl::SimpleAtoi(text, &value) || !InRange(static_cast<double>(value))) {
      return BadFlag(field, text, "a whole number " + Range(field));
    }
    config.*member = value;
    return absl::OkStatus();
  }

  absl::Status operator()(double C::*member) const {
    double value = 0;
    if (!absl::SimpleAtod(text, &value) || !InRange(value)) {
      return BadFlag(field, text, "a number " + Range(field));
    }
    config.*member = value;
    return absl::OkStatus();
  }

  absl::Status operator()(bool C::*member) const {
    if (text != "true" && text != "false") return BadFlag(field, text, "true or false");
    config.*member = text == "true";
    return absl::OkStatus();
  }

  bool InRange(double value) const { return value >= field.min && value <= field.max; }
};

// Reads a field from the config file; one overload for each type of field.
struct JsonSetter {
  const ConfigField& field;
  const JsonReader& json;
  DaemonConfig& config;

  void operator()(std::string C::*member) const {
    std::string value = json.String(field.key);
    if (!IsChoice(field.choices, value)) json.FailExpected(field.key, OneOf(field));
    config.*member = std::move(value);
  }

  template <typename Int>
  void operator()(Int C::*member) const {
    config.*member =
        static_cast<Int>(json.Int(field.key, {.min = static_cast<int64_t>(field.min),
                                              .max = static_cast<int64_t>(field.max)}));
  }

  void operator()(double C::*member) const {
    config.*member = json.Number(field.key, {.min = field.min, .max = field.max});
  }

  void operator()(bool C::*member) const {
    config.*member = json.BoolOr(field.key, config.*member);
  }
};

}  // namespace

std::span<const ConfigField> DaemonConfigFields() { return kFields; }

absl::Status ApplyConfigJson(absl::string_view json_text, const std::string& source,
                             DaemonConfig& config) {
  MOED_ASSIGN_OR_RETURN(const JsonReader json, JsonReader::Parse(json_text, source));
  std::vector<absl::string_view> keys;
  for (const ConfigField& field : kFields) keys.push_back(field.key);
  json.RefuseUnknownKeys(keys);
  for (const ConfigField& field : kFields) {
    if (!json.Has(field.key)) continue;
    std::visit(JsonSetter{field, json, config}, field.member);
  }
  return json.status();
}

absl::Status ApplyConfigFile(const std::string& path, DaemonConfig& config) {
  MOED_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return ApplyConfigJson(text, path, config);
}

absl::Status SetConfigField(const ConfigField& field, const std::string& text,
                            DaemonConfig& config) {
  return std::visit(FlagSetter{field, text, config}, field.member);
}

absl::Status ValidateListenAddress(const std::string& address) {
  if (address.starts_with("unix:")) {
    const size_t path_bytes = address.size() - 5;
    if (path_bytes > 0 && path_bytes <= kMaxUnixPathBytes) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s': a socket path has 1 to %d bytes", address, kMaxUnixPathBytes));
  }
  const size_t colon = address.rfind(':');
  const std::string host = colon == std::string::npos ? "" : address.substr(0, colon);
  const bool bare_ipv6 = host.find(':') != std::string::npos && !host.starts_with("[");
  uint32_t port = 0;
  if (host.empty() || bare_ipv6 || !absl::SimpleAtoi(address.substr(colon + 1), &port) ||
      port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrFormat("'%s': expected HOST:PORT, [IPV6]:PORT or unix:PATH", address));
  }
  return absl::OkStatus();
}

bool IsLocalAddress(const std::string& address) {
  if (address.starts_with("unix:")) return true;
  const std::string host = address.substr(0, address.rfind(':'));
  in_addr ipv4;
  // The whole of 127.0.0.0/8 is this machine, but a name such as 127.example.com is not.
  if (::inet_pton(AF_INET, host.c_str(), &ipv4) == 1) return host.starts_with("127.");
  return host == "localhost" || host == "[::1]";
}

absl::StatusOr<int32_t> ParseSocketMode(const std::string& text) {
  int32_t mode = 0;
  for (const char c : text) {
    if (c < '0' || c > '7' || mode > 0777) mode = -1;
    if (mode < 0) break;
    mode = mode * 8 + (c - '0');
  }
  if (!text.empty() && mode > 0 && (mode & ~0666) == 0) return mode;
  return absl::InvalidArgumentError(
      absl::StrFormat("expected read and write bits in octal, such as 0660, got '%s'", text));
}

namespace {

absl::Status ValidateTls(const DaemonConfig& config) {
  if (config.tls_cert.empty() != config.tls_key.empty()) {
    return absl::InvalidArgumentError("tls_cert and tls_key go together, but one of them is empty");
  }
  if (config.tls_cert.empty()) {
    if (config.tls_client_ca.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("tls_client_ca needs tls_cert and tls_key");
  }
  if (!config.listen.starts_with("unix:")) return absl::OkStatus();
  if (!config.admin_listen.empty() && !config.admin_listen.starts_with("unix:")) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      "tls_cert: TLS is for HOST:PORT, but this daemon listens on unix sockets only");
}

// `name` is the setting of `address`.
absl::Status CheckExposure(const DaemonConfig& config, absl::string_view name,
                           const std::string& address) {
  const bool is_safe = !config.tls_cert.empty() && !config.token_file.empty();
  if (is_safe || config.insecure || IsLocalAddress(address)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "%s: %s can be reached from other machines, which needs TLS (tls_cert, tls_key) and tokens "
      "(token_file); --insecure listens there without",
      name, address));
}

absl::Status ValidateFront(const DaemonConfig& config) {
  for (const auto& [name, address] :
       {std::pair<absl::string_view, const std::string&>("listen", config.listen),
        {"admin_listen", config.admin_listen}}) {
    if (name == "admin_listen" && address.empty()) continue;
    if (absl::Status status = ValidateListenAddress(address); !status.ok()) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: %s", name, status.message()));
    }
    MOED_RETURN_IF_ERROR(CheckExposure(config, name, address));
  }
  if (absl::StatusOr<int32_t> mode = ParseSocketMode(config.socket_mode); !mode.ok()) {
    return absl::InvalidArgumentError(absl::StrFormat("socket_mode: %s", mode.status().message()));
  }
  return ValidateTls(config);
}

}  // namespace

absl::Status ValidateDaemonConfig(const DaemonConfig& config) {
  MOED_RETURN_IF_ERROR(ValidateFront(config));
  if (!config.metrics_listen.empty() && (!ValidateListenAddress(config.metrics_listen).ok() ||
                                         config.metrics_listen.starts_with("unix:"))) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "metrics_listen: '%s': expected HOST:PORT or [IPV6]:PORT", config.metrics_listen));
  }
  if (config.numerics == "fast" && config.device == "cpu") {
    return absl::InvalidArgumentError(
        "numerics: fast is what cuBLAS computes on GPUs, but device is cpu, which computes "
        "invariant "
        "only");
  }
  if (config.expert_placement.empty()) {
    return absl::InvalidArgumentError(
        "expert_placement: expected linear, round_robin or a file, got nothing");
  }
  if (config.max_sequences_per_step > config.max_tokens_per_step) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "max_sequences_per_step: %d is more than max_tokens_per_step, %d, but every sequence of a "
        "step needs a token",
        config.max_sequences_per_step, config.max_tokens_per_step));
  }
  return absl::OkStatus();
}

}  // namespace moed
