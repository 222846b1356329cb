#include "client/command_line.h"

#include <CLI/CLI.hpp>
#include <iostream>

#include "client/connection_flags.h"

namespace moed {
namespace {

constexpr char kSampling[] = "Sampling";
constexpr char kStopping[] = "Stopping";
constexpr char kResponse[] = "Response";
constexpr char kRequest[] = "Request";
constexpr char kFooter[] = R"(`moedctl COMMAND --help` lists the flags of a command; those above may
follow it as well.
Results go to standard output, one line about a failure to standard error.
Exit codes: 0 ok; 1 failure (health: not serving; drain: requests are left); 2 wrong usage;
130 interrupted.

Examples:
  moedctl generate --max-tokens 40 "Once upon a time"
  moedctl generate --json --temperature 0 --file prompt.txt
  moedctl --server unix:/run/moed/moed.sock status
  moedctl --server gpu7:50051 --tls-ca ca.pem --token-file token experts --layer 3
  moedctl health && echo serving)";

void AddText(CLI::App& app, const char* name, TextFlags& text) {
  CLI::Option* argument = app.add_option(name, text.text, "The text; - reads standard input");
  app.add_option("--file,-f", text.file, "Read the text from a file; - is standard input")
      ->excludes(argument);
}

void AddPrompt(CLI::App& app, GenerateFlags& flags) {
  AddText(app, "prompt", flags.prompt);
  app.add_option("--token-ids", flags.prompt_token_ids, "A prompt of token ids: 1,2,3")
      ->delimiter(',')
      ->excludes("prompt")
      ->excludes("--file");
}

bool HasText(const TextFlags& text) { return text.text.has_value() || !text.file.empty(); }

bool LacksInput(const CommandLine& line) {
  if (line.command == "tokenize") return !HasText(line.tokenize.text);
  if (line.command != "generate") return false;
  return !HasText(line.generate.prompt) && line.generate.prompt_token_ids.empty();
}

void AddSampling(CLI::App& app, GenerateFlags& flags) {
  const auto add = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(kSampling);
  };
  add("--temperature,-t", flags.temperature, "[0, 100]; 0 is greedy");
  add("--top-k", flags.top_k, "The k most likely tokens; 0 is off");
  add("--top-p", flags.top_p, "(0, 1]");
  add("--min-p", flags.min_p, "[0, 1)");
  add("--presence-penalty", flags.presence_penalty, "[-2, 2]");
  add("--frequency-penalty", flags.frequency_penalty, "[-2, 2]");
  add("--repetition-penalty", flags.repetition_penalty, "(0, 100]");
  add("--logit-bias", flags.logit_bias, "ID=BIAS, may be repeated")->delimiter(',');
  add("--allowed-token-ids", flags.allowed_token_ids, "Sample only these: 1,2,3")->delimiter(',');
  add("--seed,-s", flags.seed, "The same seed gives the same tokens");
  add("--n,-n", flags.n, "Number of sequences, 1 to 64")->check(CLI::Range(1, 64));
}

void AddStopping(CLI::App& app, GenerateFlags& flags) {
  const auto add = [&app](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->group(kStopping);
  };
  add("--max-tokens,-m", flags.max_tokens, "Most tokens of a sequence");
  add("--min-tokens", flags.min_tokens, "No stop before this many tokens");
  add("--stop", flags.stop, "A text that ends a sequence; may be repeated")
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  add("--stop-token-ids", flags.stop_token_ids, "Tokens that end a sequence: 1,2,3")
      ->delimiter(',');
  app.add_flag("--ignore-eos", flags.ignore_eos, "Go on after end-of-text")->group(kStopping);
  app.add_flag("--include-stop-string", flags.include_stop_string, "Keep the stop text")
      ->group(kStopping);
}

void AddResponse(CLI::App& app, GenerateFlags& flags) {
  const auto add_flag = [&app](const char* name, bool& value, const char* help) {
    app.add_flag(name, value, help)->group(kResponse);
  };
  add_flag("--echo", flags.echo, "Start with the prompt");
  add_flag("--return-token-ids", flags.return_token_ids, "Token ids too (shown with --json)");
  app.add_option("--logprobs", flags.logprobs, "The N best log-probabilities (shown with --json)")
      ->group(kResponse);
  add_flag("--skip-text", flags.skip_text, "Token ids only");
  add_flag("--keep-special-tokens", flags.keep_special_tokens, "Show special tokens in the text");
  add_flag("--usage", flags.usage, "A line about tokens and times on standard error");
  add_flag("--timing", flags.timing, "A table of where the time went on standard error");
}

void AddRequest(CLI::App& app, GenerateFlags& flags) {
  const auto add = [&app](const char* name, auto& value, const char* help) {
    app.add_option(name, value, help)->group(kRequest);
  };
  const auto add_flag = [&app](const char* name, bool& value, const char* help) {
    app.add_flag(name, value, help)->group(kRequest);
  };
  add("--model", flags.model, "Refuse to be served by another model");
  add("--priority", flags.priority, "[-100, 100]; larger runs first among your tenant's");
  add("--cache-salt", flags.cache_salt, "Share cached prefixes only within this salt");
  add("--client-request-id", flags.client_request_id, "A name for the server's log");
  add_flag("--bypass-prefix-cache", flags.bypass_prefix_cache, "Neither use nor fill the cache");
  add_flag("--no-special-tokens", flags.no_special_tokens, "Do not add the model's own, e.g. bos");
  add_flag("--plain-special-tokens", flags.plain_special_tokens,
           "Special tokens spelled out in the text are plain text");
}

void AddGenerate(CLI::App& app, GenerateFlags& flags) {
  CLI::App* command = app.add_subcommand("generate", "Generate text, printed as it comes");
  AddPrompt(*command, flags);
  AddSampling(*command, flags);
  AddStopping(*command, flags);
  AddResponse(*command, flags);
  AddRequest(*command, flags);
}

void AddTokenize(CLI::App& app, TokenizeFlags& flags) {
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids");
  AddText(*command, "text", flags.text);
  command->add_flag("--pieces", flags.pieces, "One line per token, with its text");
  command->add_flag("--no-special-tokens", flags.no_special_tokens, "Do not add e.g. bos");
  command->add_flag("--plain-special-tokens", flags.plain_special_tokens,
                    "Special tokens spelled out in the text are plain text");
}

void AddDetokenize(CLI::App& app, DetokenizeFlags& flags) {
  CLI::App* command = app.add_subcommand("detokenize", "Token ids to text");
  command->add_option("token_ids", flags.token_ids, "1,2,3 or 1 2 3")->delimiter(',')->required();
  command->add_flag("--keep-special-tokens", flags.keep_special_tokens, "Show special tokens");
}

void AddAdmin(CLI::App& app, CommandLine& line) {
  app.add_subcommand("model", "The served model");
  app.add_subcommand("status", "Ranks, memory, queue");
  CLI::App* experts = app.add_subcommand("experts", "Load per expert and rank");
  experts->add_option("--layer", line.experts.layer, "The experts of one layer of the model");
  experts->add_flag("--reset", line.experts.reset, "Count anew after this");
  CLI::App* top = app.add_subcommand("top", "What the server does now, kept up to date; q ends");
  top->add_option("--interval", line.top.interval_s, "Seconds between pictures")
      ->check(CLI::Range(0.1, 3600.0))
      ->capture_default_str();
  top->add_flag("--once", line.top.once, "One picture as text, of what happens in one interval");
  CLI::App* drain = app.add_subcommand("drain", "Stop accepting, wait for what runs");
  drain->add_option("--drain-timeout", line.drain.drain_timeout_s, "Seconds; 0 = the server's own")
      ->check(CLI::NonNegativeNumber);
  CLI::App* health = app.add_subcommand("health", "Exit code 0 when the server is serving");
  health->add_option("--service", line.health.service, "Of one service instead of the server");
}

void AddToken(CLI::App& app, TokenFlags& flags) {
  CLI::App* command = app.add_subcommand(
      "token", "Make a bearer token and print the line for the server's token file");
  command->add_option("--tenant", flags.tenant, "Whom the token stands for")->required();
  command
      ->add_option("--methods", flags.methods, "inference, admin, all, or Generate,GetStatus,...")
      ->capture_default_str();
  command->add_option("--secret-file", flags.secret_file, "Write the new token to this new file")
      ->excludes(command->add_option("--from-file", flags.from_file,
                                     "Take the token from this file instead of making one"));
}

void AddGlobal(CLI::App& app, CommandLine& line) {
  AddConnectionFlags(app, line.connection);
  app.add_flag("--json", line.json, "Print one JSON object");
}

}  // namespace

std::variant<CommandLine, int> ParseCommandLine(int argc, const char* const* argv) {
  CommandLine line;
  CLI::App app("moedctl: talks to a moed server", "moedctl");
  app.set_version_flag("--version", MOED_VERSION);
  app.footer(kFooter);
  AddGlobal(app, line);
  app.fallthrough();  // --server and --json may follow the command as well
  app.require_subcommand(1);
  AddGenerate(app, line.generate);
  AddTokenize(app, line.tokenize);
  AddDetokenize(app, line.detokenize);
  AddAdmin(app, line);
  AddToken(app, line.token);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  line.command = app.get_subcommands().front()->get_name();
  if (LacksInput(line)) {
    std::cerr << "moedctl: " << line.command << ": a text is missing; run with --help\n";
    return 2;
  }
  return line;
}

}  // namespace moed
