#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "client/load/report/result_json.h"
#include "client/text_table.h"

namespace moed::load {

/// A result, as ToJson makes it (with moed.server when there is one), for people.
std::string FormatResult(const nlohmann::ordered_json& result, Charset charset);

/// One line a point of a search or a sweep.
std::string FormatPoints(const std::vector<LoadPoint>& points, const std::string& unit);

/// The timeline, one line a second, with the server's figures of the same second.
std::string FormatTimelineCsv(const nlohmann::ordered_json& result);

/// One page with everything in it: the result, its plots, and the code that draws them.
std::string FormatHtml(const nlohmann::ordered_json& result);

}  // namespace moed::load
