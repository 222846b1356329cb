#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

/// Returns from the enclosing function when `expr` (an absl::Status) is an error.
#define MOED_RETURN_IF_ERROR(expr)                                             \
  do {                                                                         \
    if (absl::Status moed_status_ = (expr); !moed_status_.ok()) [[unlikely]] { \
      return moed_status_;                                                     \
    }                                                                          \
  } while (false)

#define MOED_STATUS_CONCAT_INNER(a, b) a##b
#define MOED_STATUS_CONCAT(a, b) MOED_STATUS_CONCAT_INNER(a, b)

/// `MOED_ASSIGN_OR_RETURN(auto x, MakeX());`: returns the error, or moves the value into `lhs`.
#define MOED_ASSIGN_OR_RETURN(lhs, expr) \
  MOED_ASSIGN_OR_RETURN_IMPL(MOED_STATUS_CONCAT(moed_statusor_, __LINE__), lhs, expr)

#define MOED_ASSIGN_OR_RETURN_IMPL(statusor, lhs, expr) \
  auto statusor = (expr);                               \
  if (!statusor.ok()) [[unlikely]] {                    \
    return std::move(statusor).status();                \
  }                                                     \
  lhs = *std::move(statusor)
