// LLVM's diagnostics as text: collected from a context for the time of one compilation, never printed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <llvm/IR/LLVMContext.h>
#include <llvm/Support/SourceMgr.h>

#include <memory>
#include <string>
#include <string_view>

namespace tenon::compile_layer {

// Several lines as one: "a; b; c", without blanks at the ends of lines.
std::string one_line(std::string_view text);

// "FILE:LINE:COLUMN: what: the source line"; `file` stands in for the name that the diagnostic has.
std::string describe(const llvm::SMDiagnostic& diagnostic, std::string_view file);

// While it lives, errors that are reported to `context` are collected here; warnings and remarks go on to the handler that
// the client has set, if any, and are dropped otherwise. At the end the client's handler is back in its place.
class DiagnosticScope {
public:
  explicit DiagnosticScope(llvm::LLVMContext& context);
  ~DiagnosticScope();
  DiagnosticScope(const DiagnosticScope&) = delete;
  DiagnosticScope& operator=(const DiagnosticScope&) = delete;

  bool failed() const noexcept { return !errors_.empty(); }
  const std::string& errors() const noexcept { return errors_; } // one line

private:
  class Handler;
  llvm::LLVMContext& context_;
  std::unique_ptr<llvm::DiagnosticHandler> clients_;
  std::string errors_;
};

} // namespace tenon::compile_layer
