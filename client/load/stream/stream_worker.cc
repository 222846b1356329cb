#include "client/load/stream/stream_worker.h"

#include <time.h>

#include <utility>

#include "client/load/stream/generate_stream.h"
#include "config/base/check.h"

namespace moed::load {
namespace {

double ThreadCpuSeconds() {
  timespec time = {};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

StreamWorker::StreamWorker(Params params)
    : params_(std::move(params)), recording_(params_.recording) {
  for (const std::unique_ptr<Connection>& connection : params_.connections) {
    stubs_.push_back(v1::InferenceService::NewStub(connection->channel()));
  }
  thread_ = std::thread([this] { Run(); });
}

StreamWorker::~StreamWorker() { Join(); }

void StreamWorker::Join() {
  if (!thread_.joinable()) return;
  queue_.Shutdown();
  thread_.join();
  absl::MutexLock lock(&mutex_);
  MOED_CHECK(streams_.empty());
}

void StreamWorker::Start(StreamStart start) {
  params_.live.num_sent.fetch_add(1, std::memory_order_relaxed);
  const size_t index = next_stub_.fetch_add(1, std::memory_order_relaxed) % stubs_.size();
  auto* stream = new GenerateStream(*this, std::move(start));  // deleted by Remove
  {
    absl::MutexLock lock(&mutex_);
    streams_.insert(stream);
  }
  stream->Begin(*params_.connections[index], *stubs_[index]);
}

void StreamWorker::CancelAll() {
  absl::MutexLock lock(&mutex_);
  for (GenerateStream* stream : streams_) stream->Cancel();
}

void StreamWorker::Run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
    const auto* event = static_cast<GenerateStream::Tag*>(tag);
    (event->stream->*event->on_done)(ok);
  }
  cpu_seconds_ = ThreadCpuSeconds();
}

void StreamWorker::Remove(GenerateStream* stream) {
  {
    absl::MutexLock lock(&mutex_);
    streams_.erase(stream);
  }
  delete stream;
}

}  // namespace moed::load
