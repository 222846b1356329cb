#pragma once

#include <set>
#include <vector>

#include "server/scheduler/sequence.h"

namespace moed {

/// Whoever runs on a rank, in the order in which decoding sequences are planned and, from its end,
/// preempted. The tenant with the newest request comes last, so that a newcomer never takes the
/// blocks of another tenant; a tenant's own sequences are in their order. Pure.
std::vector<Sequence*> DecodeOrder(const std::set<Sequence*, ServedBefore>& running);

/// Those of them that still compute their prompts; the tenant that has been served least comes
/// first. Pure.
std::vector<Sequence*> PrefillOrder(const std::set<Sequence*, ServedBefore>& running);

}  // namespace moed
