// LLVM's errors as ours, for the peers' files.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include "inputs.h"

#include <llvm/ADT/StringRef.h>
#include <llvm/Support/Error.h>
#include <llvm/Support/MemoryBufferRef.h>

#include <string>

namespace versus {

inline Error llvm_fault(llvm::Error error) { return Error{ErrorCode::unsupported, llvm::toString(std::move(error))}; }

inline llvm::MemoryBufferRef buffer_of(const InputObject& object) {
  llvm::StringRef bytes(reinterpret_cast<const char*>(object.bytes.data()), object.bytes.size());
  return {bytes, object.name};
}

} // namespace versus
