#pragma once

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/async_stream.h>

#include <atomic>
#include <cstdint>
#include <memory>

#include "client/load/stream/stream_worker.h"

namespace moed::load {

/// One Generate call, from its start to its end.
///
/// Owned by its worker; all but the constructor, Begin and Cancel run on the worker's thread.
class GenerateStream {
 public:
  /// What the completion queue gives back.
  struct Tag {
    GenerateStream* stream = nullptr;
    void (GenerateStream::*on_done)(bool ok) = nullptr;
  };

  GenerateStream(StreamWorker& worker, StreamStart start);

  /// Sends the request; the worker's thread may delete this before Begin returns.
  void Begin(const Connection& connection, v1::InferenceService::Stub& stub);

  /// Ends the call as unfinished. Any thread.
  void Cancel();

 private:
  void OnStarted(bool ok);
  void OnRead(bool ok);
  void OnPauseOver(bool ok);
  void OnFinished(bool ok);

  void MakeRequest();
  void ReadNext();
  void Take(const v1::GenerateResponse& event);
  void TakeDelta(const v1::Delta& delta);
  RequestOutcome Outcome() const;
  void GiveBackSession();

  StreamWorker& worker_;
  const StreamOptions& options_;
  std::unique_ptr<Session> session_;
  Prompt prompt_;
  RequestRecord record_;
  RequestDetail detail_;
  bool cancels_ = false;  // this one is cancelled after some tokens
  bool has_cancelled_ = false;
  std::atomic<bool> is_unfinished_ = false;
  v1::GenerateRequest request_;
  v1::GenerateResponse event_;
  grpc::ClientContext context_;
  grpc::Status status_;
  grpc::Alarm pause_;
  std::unique_ptr<grpc::ClientAsyncReader<v1::GenerateResponse>> reader_;
  Tag started_{this, &GenerateStream::OnStarted};
  Tag read_{this, &GenerateStream::OnRead};
  Tag pause_over_{this, &GenerateStream::OnPauseOver};
  Tag finished_{this, &GenerateStream::OnFinished};
};

}  // namespace moed::load
