#include "kernels/create_backend.h"

#include <cstdint>

#include "gtest/gtest.h"
#include "kernels/cpu/instruction_sets.h"

namespace moed::kernels {
namespace {

TEST(CreateBackendTest, TheBestInstructionSetIsTheDefault) {
  const auto backend = CreateBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->device(), "cpu");
  EXPECT_EQ((*backend)->instruction_set(), cpu::AvailableInstructionSets().front().name);
  EXPECT_EQ((*backend)->activation_dtype(), DType::kBF16);
}

TEST(CreateBackendTest, AnInstructionSetCanBeForced) {
  for (const cpu::KernelTable& set : cpu::AvailableInstructionSets()) {
    const auto backend = CreateBackend({.instruction_set = set.name});
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ((*backend)->instruction_set(), set.name);
  }
  EXPECT_STREQ(cpu::AvailableInstructionSets().back().name, "portable");
}

TEST(CreateBackendTest, WhatThisMachineLacksIsRefused) {
  for (const BackendOptions& options :
       {BackendOptions{.instruction_set = "avx1024"}, BackendOptions{.device = "tpu"},
        BackendOptions{.activation_dtype = DType::kF16}, BackendOptions{.num_threads = 0},
        BackendOptions{.numerics = Numerics::kFast}}) {
    EXPECT_EQ(CreateBackend(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(CreateBackendTest, MemoryIsAlignedZeroedAndMovable) {
  const auto backend = CreateBackend({});
  ASSERT_TRUE(backend.ok());
  for (int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{100}, int64_t{5} << 20}) {
    auto buffer = (*backend)->Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size_bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    int64_t set = 0;
    for (int64_t i = 0; i < bytes; ++i) set += buffer->as<char>()[i] != 0;
    EXPECT_EQ(set, 0);
    void* data = buffer->data();
    Buffer moved = *std::move(buffer);
    EXPECT_EQ(moved.data(), data);
    Buffer assigned;
    assigned = std::move(moved);
    EXPECT_EQ(assigned.data(), data);
    EXPECT_EQ(assigned.size_bytes(), bytes);
  }
  EXPECT_EQ((*backend)->Allocate(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE((*backend)->Allocate(INT64_MAX).ok());
}

}  // namespace
}  // namespace moed::kernels
