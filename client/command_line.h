#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace moed {

struct ConnectionFlags {
  std::string server = "127.0.0.1:50051";  // host:port or unix:PATH
  double timeout_s = 0;                    // of the whole call; 0 = none
  std::string token_file;                  // holds the bearer token
  std::string tls_ca;    // who has signed the server's certificate; empty = plaintext
  std::string tls_cert;  // the client's own, for mutual TLS
  std::string tls_key;
  std::string tls_server_name;  // in the server's certificate, where it is not the host's name
  bool separate = false;  // a TCP connection of its own, not shared with this process's others
};

/// Where a text comes from: at most one is set. "-" is standard input.
struct TextFlags {
  std::optional<std::string> text;
  std::string file;
};

/// The fields of moed.v1.GenerateRequest; what is unset is left to the server.
struct GenerateFlags {
  TextFlags prompt;
  std::vector<int32_t> prompt_token_ids;
  std::string model;
  std::optional<float> temperature;
  std::optional<int32_t> top_k;
  std::optional<float> top_p;
  std::optional<float> min_p;
  std::optional<float> presence_penalty;
  std::optional<float> frequency_penalty;
  std::optional<float> repetition_penalty;
  std::vector<std::string> logit_bias;  // "ID=BIAS" each
  std::vector<int32_t> allowed_token_ids;
  std::optional<uint64_t> seed;
  int32_t n = 1;
  std::optional<int32_t> max_tokens;
  int32_t min_tokens = 0;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop_string = false;
  bool echo = false;
  bool return_token_ids = false;
  std::optional<int32_t> logprobs;
  bool skip_text = false;
  bool keep_special_tokens = false;
  int32_t priority = 0;
  std::string cache_salt;
  std::string client_request_id;
  bool bypass_prefix_cache = false;
  bool no_special_tokens = false;
  bool plain_special_tokens = false;
  bool usage = false;   // print a line about tokens and times to stderr
  bool timing = false;  // print where the time went to stderr
};

struct TokenizeFlags {
  TextFlags text;
  bool no_special_tokens = false;
  bool plain_special_tokens = false;
  bool pieces = false;
};

struct DetokenizeFlags {
  std::vector<int32_t> token_ids;
  bool keep_special_tokens = false;
};

struct ExpertsFlags {
  std::optional<int> layer;
  bool reset = false;
};

struct TopFlags {
  double interval_s = 1;
  bool once = false;  // one picture, then the end
};

struct DrainFlags {
  double drain_timeout_s = 0;  // 0 = the server's own
};

struct HealthFlags {
  std::string service;  // "" = the server as a whole
};

struct TokenFlags {
  std::string tenant;
  std::string methods = "inference";
  std::string secret_file;  // where a new token goes
  std::string from_file;    // where a token is taken from
};

/// What the user asked for.
struct CommandLine {
  ConnectionFlags connection;
  bool json = false;
  std::string command;  // "generate", "tokenize", ...
  GenerateFlags generate;
  TokenizeFlags tokenize;
  DetokenizeFlags detokenize;
  ExpertsFlags experts;
  DrainFlags drain;
  TopFlags top;
  HealthFlags health;
  TokenFlags token;
};

/// The command line, or the exit code when there is nothing to do: 0 after help or version, 2 after
/// wrong usage; what the user should read has been printed.
std::variant<CommandLine, int> ParseCommandLine(int argc, const char* const* argv);

}  // namespace moed
