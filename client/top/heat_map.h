#pragma once

#include <span>
#include <string>
#include <vector>

#include "client/top/top_rates.h"
#include "client/top/top_view.h"

namespace moed {

/// The load of experts as a picture: a line for each layer, a cell for each expert, darker (or
/// hotter) the more of its layer's rows it got. Where there is no room, a cell stands for several
/// neighbours and shows the busiest. At most `max_lines` lines, header and scale included; none for
/// a model without MoE layers or when there is no room for three. Pure.
std::vector<std::string> DrawHeatMap(std::span<const LayerLoad> layers, const TopScreen& screen,
                                     int max_lines);

}  // namespace moed
