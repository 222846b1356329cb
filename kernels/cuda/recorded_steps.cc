#include "kernels/cuda/recorded_steps.h"

#include <utility>

#include "config/base/status_macros.h"

namespace moed::kernels::cuda {

int64_t RecordedSteps::RowsToRecord(int64_t num_rows) {
  constexpr int64_t kMost = 256;
  if (num_rows > kMost) return 0;
  for (int64_t few : {1, 2, 4}) {
    if (num_rows <= few) return few;
  }
  const int64_t multiple = num_rows <= 64 ? 8 : 16;
  return (num_rows + multiple - 1) / multiple * multiple;
}

absl::Status RecordedSteps::Run(int64_t rows, absl::FunctionRef<absl::Status()> ops) {
  const auto [found, is_new] = recordings_.try_emplace(rows, nullptr);
  if (is_new) return ops();
  if (found->second == nullptr) MOED_RETURN_IF_ERROR(Record(ops, found->second));
  if (context_.failed()) return absl::OkStatus();  // Synchronize() tells
  context_.Keep(cudaGraphLaunch(found->second, context_.Begin().stream),
                "launching a recorded step");
  return absl::OkStatus();
}

absl::Status RecordedSteps::Record(absl::FunctionRef<absl::Status()> ops,
                                   cudaGraphExec_t& recording) {
  if (context_.failed()) return absl::OkStatus();
  const cudaStream_t stream = context_.Begin().stream;
  context_.Keep(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
                "recording a step");
  if (context_.failed()) return absl::OkStatus();
  context_.set_is_recording(true);
  const absl::Status status = ops();
  context_.set_is_recording(false);
  cudaGraph_t graph = nullptr;
  context_.Keep(cudaStreamEndCapture(stream, &graph), "recording a step");
  if (status.ok() && !context_.failed()) {
    context_.Keep(cudaGraphInstantiate(&recording, graph), "making a recording of a step");
  }
  if (graph != nullptr) cudaGraphDestroy(graph);
  return status;
}

void RecordedSteps::Clear() {
  const auto recordings = std::exchange(recordings_, {});
  if (recordings.empty()) return;
  // One may still be running.
  context_.Keep(cudaStreamSynchronize(context_.Begin().stream), "waiting for recorded steps");
  for (const auto& [rows, recording] : recordings) {
    if (recording != nullptr) cudaGraphExecDestroy(recording);
  }
}

}  // namespace moed::kernels::cuda
