// LLVM reports errors of inline assembly and of the code generator only to the context's handler, and without one prints
// them and may exit. So every compilation runs with a handler of ours.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/diagnostics.h"

#include <llvm/IR/DiagnosticHandler.h>
#include <llvm/IR/DiagnosticInfo.h>
#include <llvm/IR/DiagnosticPrinter.h>
#include <llvm/Support/raw_ostream.h>

#include <algorithm>

namespace tenon::compile_layer {

namespace {

std::string_view trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::string text_of(const llvm::DiagnosticInfo& info) {
  if (const auto* source = llvm::dyn_cast<llvm::DiagnosticInfoSrcMgr>(&info)) {
    const llvm::SMDiagnostic& diagnostic = source->getSMDiag();
    return describe(diagnostic, diagnostic.getFilename());
  }
  std::string text;
  llvm::raw_string_ostream stream(text);
  llvm::DiagnosticPrinterRawOStream printer(stream);
  info.print(printer);
  return one_line(text);
}

} // namespace

std::string one_line(std::string_view text) {
  std::string joined;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const std::string_view line = trimmed(text.substr(0, end));
    if (!line.empty()) {
      if (!joined.empty()) joined += "; ";
      joined += line;
    }
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return joined;
}

std::string describe(const llvm::SMDiagnostic& diagnostic, std::string_view file) {
  std::string text(file);
  // Bitcode has no lines: LLVM says 0 or -1 then.
  if (diagnostic.getLineNo() > 0) {
    text += ':' + std::to_string(diagnostic.getLineNo());
    if (diagnostic.getColumnNo() >= 0) text += ':' + std::to_string(diagnostic.getColumnNo() + 1);
  }
  text += ": ";
  text += one_line(std::string_view(diagnostic.getMessage()));
  // Binary input taken for text can have lines of any length.
  constexpr std::size_t longest_line = 200;
  const std::string_view line = trimmed(std::string_view(diagnostic.getLineContents()).substr(0, longest_line));
  if (!line.empty()) (text += ": ") += line;
  for (char& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  return text;
}

class DiagnosticScope::Handler final : public llvm::DiagnosticHandler {
public:
  explicit Handler(DiagnosticScope& scope) : scope_(scope) {}

  bool handleDiagnostics(const llvm::DiagnosticInfo& info) override {
    if (info.getSeverity() == llvm::DS_Error) {
      if (!scope_.errors_.empty()) scope_.errors_ += "; ";
      scope_.errors_ += text_of(info);
    } else if (scope_.clients_) {
      scope_.clients_->handleDiagnostics(info);
    }
    return true;
  }

  bool isAnalysisRemarkEnabled(llvm::StringRef pass) const override {
    return scope_.clients_ && scope_.clients_->isAnalysisRemarkEnabled(pass);
  }
  bool isMissedOptRemarkEnabled(llvm::StringRef pass) const override {
    return scope_.clients_ && scope_.clients_->isMissedOptRemarkEnabled(pass);
  }
  bool isPassedOptRemarkEnabled(llvm::StringRef pass) const override {
    return scope_.clients_ && scope_.clients_->isPassedOptRemarkEnabled(pass);
  }
  bool isAnyRemarkEnabled() const override { return scope_.clients_ && scope_.clients_->isAnyRemarkEnabled(); }

private:
  DiagnosticScope& scope_;
};

DiagnosticScope::DiagnosticScope(llvm::LLVMContext& context) : context_(context), clients_(context.getDiagnosticHandler()) {
  context_.setDiagnosticHandler(std::make_unique<Handler>(*this));
}

DiagnosticScope::~DiagnosticScope() { context_.setDiagnosticHandler(std::move(clients_)); }

} // namespace tenon::compile_layer
