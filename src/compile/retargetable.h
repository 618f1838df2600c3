// An object streamer that emits calls and tail calls so that their target can be changed while threads execute them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <llvm/MC/MCContext.h>
#include <llvm/MC/MCStreamer.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Target/TargetMachine.h>

#include <memory>

namespace tenon::compile_layer {

// Null if the target lacks what it takes to write objects, or is not x86-64 ELF.
std::unique_ptr<llvm::MCStreamer> create_retargetable_streamer(const llvm::TargetMachine& machine, llvm::MCContext& context,
                                                               llvm::raw_pwrite_stream& out);

} // namespace tenon::compile_layer
