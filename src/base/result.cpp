// The words of errors.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/result.h>

#include <stdexcept>

namespace tenon {

const char* to_string(ErrorCode code) noexcept {
  switch (code) {
  case ErrorCode::malformed: return "malformed";
  case ErrorCode::unsupported: return "unsupported";
  case ErrorCode::undefined: return "undefined";
  case ErrorCode::duplicate: return "duplicate";
  case ErrorCode::out_of_range: return "out_of_range";
  case ErrorCode::needs_flag: return "needs_flag";
  case ErrorCode::exhausted: return "exhausted";
  case ErrorCode::out_of_memory: return "out_of_memory";
  case ErrorCode::system: return "system";
  case ErrorCode::vetoed: return "vetoed";
  case ErrorCode::still_used: return "still_used";
  case ErrorCode::conflict: return "conflict";
  case ErrorCode::initializer: return "initializer";
  case ErrorCode::resolver: return "resolver";
  case ErrorCode::compile: return "compile";
  case ErrorCode::invalid_argument: return "invalid_argument";
  }
  return "unknown";
}

Error Error::within(std::string_view context) && noexcept {
  try {
    std::string longer;
    longer.reserve(context.size() + 2 + message.size());
    message = std::move(longer.append(context).append(": ").append(message));
  } catch (const std::exception&) {
    // Which fault it was counts for more than where.
  }
  return std::move(*this);
}

} // namespace tenon
