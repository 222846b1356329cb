#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config/model_config.h"
#include "engine/weights/tensor_source.h"

namespace moed {

/// Random bf16 matrices, each element a pure function of (seed, tensor name, element index), so
/// that they are the same whatever part of a tensor is asked for.
///
/// Norms are 1. Other elements are uniform with a standard deviation of 1 / sqrt(fan_in) for
/// matrices that read a hidden state, so that what they give is O(1); a fifth of that for those
/// that write to it, so that the embedding, which is O(1), is not drowned: otherwise all tokens of
/// a batch grow alike within a few layers and pick the same experts.
class DummyTensors : public TensorSource {
 public:
  DummyTensors(const ModelConfig& config, uint64_t seed)
      : embedding_multiplier_(config.embedding_multiplier), seed_(seed) {}

  kernels::HostMatrix Read(const MatrixRef& ref) override;
  int64_t SizeBytes(const MatrixRef& ref) const override;
  void Release() override;

 private:
  // Memory of one matrix. Layers are alike, so that most of it serves again for the next one.
  struct Block {
    size_t size = 0;  // in elements
    bool comes_again = false;
    std::unique_ptr<uint16_t[]> data;
  };

  double StandardDeviation(const MatrixRef& ref) const;
  // Room for a matrix, not initialised, until Release().
  std::span<uint16_t> Take(const MatrixRef& ref);

  const double embedding_multiplier_;
  const uint64_t seed_;
  std::vector<Block> in_use_;
  std::vector<Block> free_;
};

/// The elements [begin, begin + out.size()) of the tensor `name`, as bf16 bits: uniform with mean
/// 0.
struct DummyValuesParams {
  uint64_t seed = 0;
  std::string name;
  double standard_deviation = 1;
  uint64_t begin = 0;
};
void FillDummyValues(const DummyValuesParams& params, std::span<uint16_t> out);

}  // namespace moed
