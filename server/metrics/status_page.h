#pragma once

namespace moed {

/// The status page, from status_page.html: UTF-8, complete in itself. The build makes its source.
extern const char kStatusPage[];

}  // namespace moed
