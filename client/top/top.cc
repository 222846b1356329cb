#include "client/top/top.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/message_json.h"
#include "client/rpc_error.h"
#include "client/top/terminal.h"
#include "client/top/top_rates.h"
#include "client/top/top_view.h"
#include "moed/v1/admin.grpc.pb.h"

namespace moed {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kCallTimeout = std::chrono::seconds(5);
constexpr int kPollMilliseconds = 50;  // how soon a key, an interrupt or a new size is noticed
constexpr size_t kMaxHistory = 60;

/// One run of the command: asks, keeps what is needed for the next picture, and draws.
class Top {
 public:
  Top(const CommandLine& line, Connection& connection, const CommandStreams& streams)
      : line_(line),
        connection_(connection),
        streams_(streams),
        stub_(v1::AdminService::NewStub(connection.channel())) {}

  int Run() {
    if (line_.top.once || line_.json) return Once();
    // The first look must succeed, and before the screen is taken: what fails must stay readable.
    if (const grpc::Status status = Advance(); !status.ok()) return Fail(status);
    if (std::optional<Terminal> terminal = Terminal::Open()) return OnTerminal(*terminal);
    return AsText();
  }

 private:
  int Once();
  int AsText();
  int OnTerminal(Terminal& terminal);

  grpc::Status Ask(TopSnapshot& snapshot);
  grpc::Status Advance();
  void Remember();
  bool WaitFor(Clock::duration duration);
  void Print();
  void PrintJson();
  int Fail(const grpc::Status& status);
  TopFrame Frame() const;
  Clock::duration interval() const {
    return std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(line_.top.interval_s));
  }

  const CommandLine& line_;
  Connection& connection_;
  const CommandStreams& streams_;
  const std::unique_ptr<v1::AdminService::Stub> stub_;
  TopSnapshot before_;
  TopSnapshot now_;
  bool has_now_ = false;
  std::vector<double> history_;
  std::string error_;
};

int Top::Fail(const grpc::Status& status) {
  streams_.err << "moedctl: top: " << line_.connection.server << ": " << FormatRpcError(status)
               << std::endl;
  return kExitFailure;
}

grpc::Status Top::Ask(TopSnapshot& snapshot) {
  grpc::ClientContext status_context, experts_context;
  for (grpc::ClientContext* context : {&status_context, &experts_context}) {
    connection_.Authorize(*context);
    context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
  }
  grpc::Status status = stub_->GetStatus(&status_context, {}, &snapshot.status);
  if (status.ok()) status = stub_->GetExperts(&experts_context, {}, &snapshot.experts);
  snapshot.seconds = std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
  return status;
}

// Takes a new look; what was the latest becomes what it is compared with.
grpc::Status Top::Advance() {
  TopSnapshot snapshot;
  const grpc::Status status = Ask(snapshot);
  error_ = status.ok() ? "" : FormatRpcError(status);
  if (!status.ok()) return status;
  // The first look is compared with the server's start.
  before_ = has_now_ ? std::move(now_)
                     : TopSnapshot{.seconds = snapshot.seconds - snapshot.status.uptime_seconds()};
  now_ = std::move(snapshot);
  if (std::exchange(has_now_, true)) Remember();
  return status;
}

void Top::Remember() {
  history_.push_back(RatesBetween(before_, now_).generated_tokens);
  if (history_.size() > kMaxHistory) history_.erase(history_.begin());
}

TopFrame Top::Frame() const {
  return {.server = line_.connection.server,
          .status = now_.status,
          .rates = RatesBetween(before_, now_),
          .history = history_,
          .error = error_};
}

// False when interrupted.
bool Top::WaitFor(Clock::duration duration) {
  const auto end = Clock::now() + duration;
  while (!connection_.interrupted() && Clock::now() < end) {
    std::this_thread::sleep_for(std::min<Clock::duration>(
        end - Clock::now(), std::chrono::milliseconds(kPollMilliseconds)));
  }
  return !connection_.interrupted();
}

void Top::Print() {
  const TopScreen screen{.columns = 100, .charset = streams_.charset};
  for (const std::string& text : DrawTop(Frame(), screen)) streams_.out << text << "\n";
  streams_.out << std::flush;
}

void Top::PrintJson() {
  const TopRates rates = RatesBetween(before_, now_);
  nlohmann::ordered_json json;
  json["seconds"] = rates.seconds;
  json["generated_tokens_per_second"] = rates.generated_tokens;
  json["prompt_tokens_per_second"] = rates.prompt_tokens;
  json["finished_requests_per_second"] = rates.finished_requests;
  json["steps_per_second"] = rates.steps;
  json["exchange_bytes_per_second"] = rates.exchange_bytes;
  json["balancedness"] = rates.balancedness;
  for (const auto& [name, ratio] : rates.stages) json["step_time_ratio"][name] = ratio;
  for (const RankRates& rank : rates.ranks) {
    json["ranks"].push_back({{"rows_per_second", rank.rows},
                             {"busy_ratio", rank.busy_ratio},
                             {"wait_ratio", rank.wait_ratio}});
  }
  json["status"] = ToJson(now_.status);
  json["experts"] = ToJson(now_.experts);
  streams_.out << DumpJson(json) << std::endl;
}

int Top::Once() {
  if (const grpc::Status status = Advance(); !status.ok()) return Fail(status);
  if (!WaitFor(interval())) return kExitInterrupted;
  if (const grpc::Status status = Advance(); !status.ok()) return Fail(status);
  line_.json ? PrintJson() : Print();
  return streams_.out.good() ? kExitOk : kExitFailure;
}

int Top::AsText() {
  while (true) {
    Print();
    streams_.out << std::endl;
    if (!streams_.out.good()) return kExitFailure;
    if (!WaitFor(interval())) return kExitInterrupted;
    if (const grpc::Status status = Advance(); !status.ok()) return Fail(status);
  }
}

// A server that is gone may come back.
int Top::OnTerminal(Terminal& terminal) {
  auto next_look = Clock::now() + interval();
  TopScreen drawn;
  while (!connection_.interrupted()) {
    const bool is_time = Clock::now() >= next_look;
    if (is_time) {
      static_cast<void>(Advance());  // Frame() shows why it failed
      next_look = Clock::now() + interval();
    }
    const TopScreen screen = terminal.screen();
    if (is_time || screen.columns != drawn.columns || screen.rows != drawn.rows) {
      if (!terminal.Show(DrawTop(Frame(), screen))) return kExitFailure;
      drawn = screen;
    }
    const std::optional<char> key = terminal.ReadKey(kPollMilliseconds);
    if (key == 'q' || key == 'Q') return kExitOk;
    if (key == ' ') next_look = Clock::now();
  }
  return kExitInterrupted;
}

}  // namespace

int RunTop(const CommandLine& line, Connection& connection, const CommandStreams& streams) {
  return Top(line, connection, streams).Run();
}

}  // namespace moed
