// Which of the two it is shows in the first bytes; what is obviously neither is said to be so, because the textual parser's
// words about an object file ("expected top-level entity") help nobody.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "compile/read_ir.h"

#include "compile/diagnostics.h"

#include <llvm/AsmParser/Parser.h>
#include <llvm/Bitcode/BitcodeReader.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/Support/Error.h>
#include <llvm/Support/MemoryBuffer.h>

namespace tenon::compile_layer {

namespace {

// The layout for a module that states `stated`; nothing if it keeps its own.
std::optional<std::string> missing_layout(llvm::StringRef stated, const llvm::DataLayout& layout) {
  if (!stated.empty()) return std::nullopt;
  return layout.getStringRepresentation();
}

Result<std::unique_ptr<llvm::Module>> read_bitcode(llvm::StringRef bytes, const std::string& name,
                                                   const llvm::DataLayout& layout, llvm::LLVMContext& context, bool lazily) {
  llvm::ParserCallbacks callbacks([&](llvm::StringRef, llvm::StringRef stated) { return missing_layout(stated, layout); });
  const llvm::MemoryBufferRef buffer(bytes, name);
  auto module = lazily ? llvm::getLazyBitcodeModule(buffer, context, /*ShouldLazyLoadMetadata=*/false,
                                                    /*IsImporting=*/false, callbacks)
                       : llvm::parseBitcodeFile(buffer, context, callbacks);
  if (!module) return Error{ErrorCode::compile, name + ": bad bitcode: " + one_line(llvm::toString(module.takeError()))};
  return std::move(*module);
}

Result<std::unique_ptr<llvm::Module>> read_text(llvm::StringRef text, const std::string& name,
                                                const llvm::DataLayout& layout, llvm::LLVMContext& context) {
  // The lexer wants a zero byte behind the text, which only a copy can promise.
  const auto buffer = llvm::MemoryBuffer::getMemBufferCopy(text, name);
  llvm::SMDiagnostic diagnostic;
  auto module = llvm::parseAssembly(*buffer, diagnostic, context, nullptr,
                                    [&](llvm::StringRef, llvm::StringRef stated) { return missing_layout(stated, layout); });
  if (!module) return Error{ErrorCode::compile, describe(diagnostic, name)};
  return module;
}

} // namespace

Result<std::unique_ptr<llvm::Module>> read_ir(Bytes ir, const std::string& name, const llvm::DataLayout& layout,
                                              llvm::LLVMContext& context, bool lazily) {
  const auto* begin = reinterpret_cast<const unsigned char*>(ir.data());
  const llvm::StringRef bytes(reinterpret_cast<const char*>(begin), ir.size());
  if (llvm::isBitcode(begin, begin + ir.size())) return read_bitcode(bytes, name, layout, context, lazily);
  if (bytes.starts_with("\x7f"
                        "ELF"))
    return Error{ErrorCode::compile, name + ": an ELF file, neither textual LLVM IR nor bitcode"};
  if (bytes.starts_with("!<arch>\n") || bytes.starts_with("!<thin>\n"))
    return Error{ErrorCode::compile, name + ": an archive, neither textual LLVM IR nor bitcode"};
  return read_text(bytes, name, layout, context);
}

} // namespace tenon::compile_layer
