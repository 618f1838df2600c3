// The words of the walker's errors, out of line so that the walk itself stays small enough to inline.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/eh_frame.h"

namespace tenon::object {

Error eh_frame_error(const char* what, std::uint64_t offset) {
  return {ErrorCode::malformed, "unwind information: " + std::string(what) + " at offset " + std::to_string(offset)};
}

} // namespace tenon::object
