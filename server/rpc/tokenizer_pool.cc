#include "server/rpc/tokenizer_pool.h"

#include <utility>

#include "absl/strings/str_format.h"

namespace moed {

TokenizerPool::TokenizerPool(const Params& params) : params_(params) {
  for (int32_t i = 0; i < params_.num_threads; ++i) threads_.emplace_back([this] { Run(); });
}

TokenizerPool::~TokenizerPool() {
  {
    absl::MutexLock lock(&mutex_);
    is_over_ = true;
  }
  for (std::thread& thread : threads_) thread.join();
}

absl::Status TokenizerPool::Post(const std::string& tenant, int64_t num_bytes,
                                 std::function<void()> job) {
  absl::MutexLock lock(&mutex_);
  if (!HasRoom(tenant, num_bytes)) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d texts of %d bytes wait for the tokenizer already; try again later",
                        num_waiting_, num_waiting_bytes_));
  }
  Queue& queue = queues_[tenant];
  queue.jobs.push_back({.num_bytes = num_bytes, .run = std::move(job)});
  queue.num_bytes += num_bytes;
  ++num_waiting_;
  num_waiting_bytes_ += num_bytes;
  return absl::OkStatus();
}

bool TokenizerPool::HasRoom(const std::string& tenant, int64_t num_bytes) const {
  if (num_waiting_ == 0) return true;
  const int32_t num_free = params_.max_waiting_texts - num_waiting_;
  const int64_t num_free_bytes = params_.max_waiting_bytes - num_waiting_bytes_;
  if (num_free <= 0 || num_bytes > num_free_bytes) return false;
  const auto own = queues_.find(tenant);
  if (tenant.empty() || own == queues_.end()) return true;
  return static_cast<int32_t>(own->second.jobs.size()) < num_free &&
         own->second.num_bytes + num_bytes <= num_free_bytes;
}

// The next tenant after the one whose turn it was, in a circle.
TokenizerPool::Job TokenizerPool::TakeNext() {
  auto it = queues_.upper_bound(last_tenant_);
  if (it == queues_.end()) it = queues_.begin();
  Queue& queue = it->second;
  Job job = std::move(queue.jobs.front());
  queue.jobs.pop_front();
  queue.num_bytes -= job.num_bytes;
  --num_waiting_;
  num_waiting_bytes_ -= job.num_bytes;
  last_tenant_ = it->first;
  if (queue.jobs.empty()) queues_.erase(it);
  return job;
}

void TokenizerPool::Run() {
  while (true) {
    Job job;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &TokenizerPool::IsCalled));
      if (num_waiting_ == 0) return;
      job = TakeNext();
    }
    job.run();
  }
}

}  // namespace moed
