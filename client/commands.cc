#include "client/commands.h"

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "client/generate_output.h"
#include "client/generate_request.h"
#include "client/input_text.h"
#include "client/message_json.h"
#include "client/reports.h"
#include "client/rpc_error.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "moed/v1/admin.grpc.pb.h"
#include "moed/v1/inference.grpc.pb.h"

namespace moed {
namespace {

namespace health = grpc::health::v1;

/// One run of one command: the line, its input, the connection and the streams together.
class Command {
 public:
  Command(const CommandLine& line, const std::string& input, Connection& connection,
          const CommandStreams& streams)
      : line_(line), input_(input), connection_(connection), streams_(streams) {}

  int Run() {
    if (line_.command == "generate") return Generate();
    if (line_.command == "tokenize") return Tokenize();
    if (line_.command == "detokenize") return Detokenize();
    if (line_.command == "model") return Model();
    if (line_.command == "status") return Status();
    if (line_.command == "experts") return Experts();
    if (line_.command == "drain") return Drain();
    return Health();
  }

 private:
  int Generate();
  int StreamText(const v1::GenerateRequest& request);
  int CollectJson(const v1::GenerateRequest& request);
  int Tokenize();
  int Detokenize();
  int Model();
  int Status();
  int Experts();
  int Drain();
  int Health();

  grpc::ClientContext* context() { return &connection_.context(); }
  int Fail(const std::string& message);
  int Finish(const grpc::Status& status);
  void ShowDrain(const v1::DrainResponse& response);
  void Show(const std::string& text) {
    streams_.out << (streams_.out_is_terminal ? ForTerminal(text) : text) << std::flush;
  }
  void ShowJson(const nlohmann::ordered_json& json) { streams_.out << DumpJson(json) << std::endl; }

  /// Shows the response of a unary call, in one of the two forms.
  template <typename Response, typename Format>
  int FinishWith(const grpc::Status& status, const Response& response, const Format& format) {
    if (status.ok()) line_.json ? ShowJson(ToJson(response)) : Show(format(response));
    return Finish(status);
  }

  const CommandLine& line_;
  const std::string& input_;
  Connection& connection_;
  const CommandStreams& streams_;
};

int Command::Fail(const std::string& message) {
  streams_.err << "moedctl: " << line_.command << ": " << ForTerminal(message) << std::endl;
  return kExitFailure;
}

int Command::Finish(const grpc::Status& status) {
  if (connection_.interrupted()) return kExitInterrupted;
  if (status.ok()) return streams_.out.good() ? kExitOk : Fail("writing the output failed");
  return Fail(absl::StrCat(line_.connection.server, ": ", FormatRpcError(status)));
}

int Command::Generate() {
  const absl::StatusOr<v1::GenerateRequest> request = MakeGenerateRequest(line_.generate, input_);
  if (!request.ok()) return Fail(std::string(request.status().message()));
  return line_.json ? CollectJson(*request) : StreamText(*request);
}

int Command::StreamText(const v1::GenerateRequest& request) {
  const auto stub = v1::InferenceService::NewStub(connection_.channel());
  const auto reader = stub->Generate(context(), request);
  GenerateText text(request.sampling().n(), [this](const std::string& piece) { Show(piece); });
  v1::GenerateResponse event;
  v1::Done done;
  while (reader->Read(&event)) {
    text.Add(event);
    if (event.has_done()) done = event.done();
    // Nobody reads on: no need to generate on.
    if (!streams_.out.good()) context()->TryCancel();
  }
  text.End();
  const grpc::Status status = reader->Finish();
  if (!streams_.out.good()) return Fail("writing the output failed");
  if (status.ok() && line_.generate.usage) streams_.err << FormatUsage(done.usage());
  if (status.ok() && line_.generate.timing) streams_.err << FormatTiming(done.timing());
  return Finish(status);
}

int Command::CollectJson(const v1::GenerateRequest& request) {
  const auto stub = v1::InferenceService::NewStub(connection_.channel());
  const auto reader = stub->Generate(context(), request);
  GenerateJson collected(request.sampling().n());
  v1::GenerateResponse event;
  while (reader->Read(&event)) collected.Add(event);
  const grpc::Status status = reader->Finish();
  if (status.ok()) ShowJson(collected.json());
  return Finish(status);
}

int Command::Tokenize() {
  v1::TokenizeRequest request;
  request.set_text(input_);
  request.set_return_pieces(line_.tokenize.pieces);
  if (line_.tokenize.no_special_tokens) request.set_add_special_tokens(false);
  if (line_.tokenize.plain_special_tokens) request.set_parse_special_tokens(false);
  v1::TokenizeResponse response;
  const auto stub = v1::InferenceService::NewStub(connection_.channel());
  const grpc::Status status = stub->Tokenize(context(), request, &response);
  return FinishWith(status, response, [this](const v1::TokenizeResponse& tokens) {
    return line_.tokenize.pieces ? FormatPieces(tokens)
                                 : absl::StrJoin(tokens.token_ids(), " ") + "\n";
  });
}

int Command::Detokenize() {
  const DetokenizeFlags& flags = line_.detokenize;
  v1::DetokenizeRequest request;
  *request.mutable_token_ids() = {flags.token_ids.begin(), flags.token_ids.end()};
  if (flags.keep_special_tokens) request.set_skip_special_tokens(false);
  v1::DetokenizeResponse response;
  const auto stub = v1::InferenceService::NewStub(connection_.channel());
  const grpc::Status status = stub->Detokenize(context(), request, &response);
  return FinishWith(status, response,
                    [](const v1::DetokenizeResponse& text) { return text.text() + "\n"; });
}

int Command::Model() {
  v1::GetModelResponse response;
  const auto stub = v1::InferenceService::NewStub(connection_.channel());
  const grpc::Status status = stub->GetModel(context(), {}, &response);
  return FinishWith(status, response, FormatModel);
}

int Command::Status() {
  v1::GetStatusResponse response;
  const auto stub = v1::AdminService::NewStub(connection_.channel());
  const grpc::Status status = stub->GetStatus(context(), {}, &response);
  return FinishWith(status, response, FormatStatus);
}

int Command::Experts() {
  v1::GetExpertsRequest request;
  request.set_reset(line_.experts.reset);
  v1::GetExpertsResponse response;
  const auto stub = v1::AdminService::NewStub(connection_.channel());
  const grpc::Status status = stub->GetExperts(context(), request, &response);
  const ExpertsView view{.layer = line_.experts.layer, .charset = streams_.charset};
  return FinishWith(status, response, [&view](const v1::GetExpertsResponse& experts) {
    return FormatExperts(experts, view);
  });
}

void Command::ShowDrain(const v1::DrainResponse& response) {
  if (line_.json) return;
  Show(response.drained() ? "drained\n"
                          : absl::StrCat(response.num_requests_left(), " requests left\n"));
}

int Command::Drain() {
  v1::DrainRequest request;
  request.set_timeout_seconds(line_.drain.drain_timeout_s);
  const auto stub = v1::AdminService::NewStub(connection_.channel());
  const auto reader = stub->Drain(context(), request);
  v1::DrainResponse response;
  v1::DrainResponse last;
  while (reader->Read(&response)) {
    ShowDrain(response);
    last = response;
  }
  const grpc::Status status = reader->Finish();
  if (status.ok() && line_.json) ShowJson(ToJson(last));
  const int exit_code = Finish(status);
  if (exit_code != kExitOk || last.drained()) return exit_code;
  return Fail(absl::StrCat("time is over with ", last.num_requests_left(), " requests left"));
}

int Command::Health() {
  health::HealthCheckRequest request;
  request.set_service(line_.health.service);
  health::HealthCheckResponse response;
  const auto stub = health::Health::NewStub(connection_.channel());
  const grpc::Status status = stub->Check(context(), request, &response);
  const int exit_code = FinishWith(status, response, [](const health::HealthCheckResponse& answer) {
    return health::HealthCheckResponse::ServingStatus_Name(answer.status()) + "\n";
  });
  const bool serving = response.status() == health::HealthCheckResponse::SERVING;
  return exit_code == kExitOk && !serving ? kExitFailure : exit_code;
}

}  // namespace

absl::StatusOr<std::string> ReadCommandInput(const CommandLine& line, std::istream& in) {
  if (line.command == "tokenize") return ReadInputText(line.tokenize.text, in);
  if (line.command != "generate") return std::string();
  return ReadInputText(line.generate.prompt, in);
}

int RunCommand(const CommandLine& line, const std::string& input, Connection& connection,
               const CommandStreams& streams) {
  return Command(line, input, connection, streams).Run();
}

}  // namespace moed
