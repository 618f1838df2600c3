// ORC's stubs. Bodies go into a JITDylib each, so that versions of one name don't clash, and are never freed: ORC has no way
// to know when they may be.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "peer_stubs.h"

#include "llvm_fault.h"

#include <llvm/ExecutionEngine/Orc/AbsoluteSymbols.h>
#include <llvm/ExecutionEngine/Orc/IndirectionUtils.h>
#include <llvm/ExecutionEngine/Orc/JITLinkRedirectableSymbolManager.h>
#include <llvm/ExecutionEngine/Orc/LLJIT.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>

namespace versus {

namespace orc = llvm::orc;

struct OrcStubs::State {
  std::unique_ptr<orc::LLJIT> jit;
  std::unique_ptr<orc::IndirectStubsManager> indirect;
  std::unique_ptr<orc::RedirectableSymbolManager> redirectable;
  std::vector<std::string> names;
  std::vector<orc::SymbolStringPtr> interned;
  std::size_t bodies = 0;

  llvm::Expected<std::vector<std::uint64_t>> link_body(const ObjectBytes& object, const std::vector<std::string>& wanted) {
    auto dylib = jit->createJITDylib("body" + std::to_string(bodies++));
    if (!dylib) return dylib.takeError();
    return link(*dylib, object, wanted);
  }

  llvm::Expected<std::vector<std::uint64_t>> link(orc::JITDylib& dylib, const ObjectBytes& object,
                                                  const std::vector<std::string>& wanted) {
    llvm::StringRef bytes(reinterpret_cast<const char*>(object.data()), object.size());
    auto buffer = llvm::MemoryBuffer::getMemBuffer(llvm::MemoryBufferRef(bytes, "object"), false);
    if (llvm::Error error = jit->addObjectFile(dylib, std::move(buffer))) return error;
    orc::ExecutionSession& session = jit->getExecutionSession();
    std::vector<orc::SymbolStringPtr> symbols;
    for (const std::string& name : wanted) symbols.push_back(session.intern(name));
    auto found = session.lookup({{&dylib, orc::JITDylibLookupFlags::MatchAllSymbols}},
                                orc::SymbolLookupSet(llvm::ArrayRef<orc::SymbolStringPtr>{symbols}));
    if (!found) return found.takeError();
    std::vector<std::uint64_t> addresses;
    for (const orc::SymbolStringPtr& symbol : symbols) addresses.push_back((*found)[symbol].getAddress().getValue());
    return addresses;
  }

  llvm::Error make_stubs(const std::vector<std::uint64_t>& addresses) {
    orc::SymbolMap symbols;
    if (indirect != nullptr) {
      orc::IndirectStubsManager::StubInitsMap inits;
      for (std::size_t i = 0; i < names.size(); ++i)
        inits[names[i]] = {orc::ExecutorAddr(addresses[i]), llvm::JITSymbolFlags::Exported};
      if (llvm::Error error = indirect->createStubs(inits)) return error;
      for (std::size_t i = 0; i < names.size(); ++i) symbols[interned[i]] = indirect->findStub(names[i], false);
      return jit->getMainJITDylib().define(orc::absoluteSymbols(std::move(symbols)));
    }
    return redirectable->createRedirectableSymbols(jit->getMainJITDylib().getDefaultResourceTracker(),
                                                   definitions(addresses));
  }

  orc::SymbolMap definitions(const std::vector<std::uint64_t>& addresses) {
    orc::SymbolMap symbols;
    for (std::size_t i = 0; i < interned.size(); ++i)
      symbols[interned[i]] = {orc::ExecutorAddr(addresses[i]), llvm::JITSymbolFlags::Exported};
    return symbols;
  }
};

OrcStubs::OrcStubs(std::unique_ptr<State> state) : state_(std::move(state)) {}
OrcStubs::~OrcStubs() = default;

Result<std::unique_ptr<OrcStubs>> OrcStubs::create(Kind kind) {
  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  auto state = std::make_unique<State>();
  auto jit = orc::LLJITBuilder().create();
  if (!jit) return llvm_fault(jit.takeError());
  state->jit = std::move(*jit);
  if (kind == Kind::indirect) {
    state->indirect = orc::createLocalIndirectStubsManagerBuilder(state->jit->getTargetTriple())();
  } else {
    auto& layer = static_cast<orc::ObjectLinkingLayer&>(state->jit->getObjLinkingLayer());
    auto manager = orc::JITLinkRedirectableSymbolManager::Create(layer);
    if (!manager) return llvm_fault(manager.takeError());
    state->redirectable = std::move(*manager);
  }
  return std::unique_ptr<OrcStubs>(new OrcStubs(std::move(state)));
}

Result<std::vector<std::uint64_t>> OrcStubs::link_body(const ObjectBytes& object, const std::vector<std::string>& names) {
  auto linked = state_->link_body(object, names);
  if (!linked) return llvm_fault(linked.takeError());
  return std::move(*linked);
}

Result<void> OrcStubs::make_stubs(const std::vector<std::string>& names, const std::vector<std::uint64_t>& addresses) {
  state_->names = names;
  for (const std::string& name : names) state_->interned.push_back(state_->jit->getExecutionSession().intern(name));
  if (llvm::Error error = state_->make_stubs(addresses)) return llvm_fault(std::move(error));
  return {};
}

Result<std::uint64_t> OrcStubs::link_caller(const ObjectBytes& object, const std::string& name) {
  auto linked = state_->link(state_->jit->getMainJITDylib(), object, {name});
  if (!linked) return llvm_fault(linked.takeError());
  return linked->front();
}

Result<void> OrcStubs::redirect(std::size_t index, std::uint64_t address) {
  llvm::Error error = state_->indirect != nullptr
                          ? state_->indirect->updatePointer(state_->names[index], orc::ExecutorAddr(address))
                          : state_->redirectable->redirect(state_->jit->getMainJITDylib(), state_->interned[index],
                                                           {orc::ExecutorAddr(address), llvm::JITSymbolFlags::Exported});
  if (error) return llvm_fault(std::move(error));
  return {};
}

Result<void> OrcStubs::redirect_all(const std::vector<std::uint64_t>& addresses) {
  if (state_->indirect != nullptr) {
    for (std::size_t i = 0; i < addresses.size(); ++i)
      if (auto redirected = redirect(i, addresses[i]); !redirected) return redirected;
    return {};
  }
  if (llvm::Error error = state_->redirectable->redirect(state_->jit->getMainJITDylib(), state_->definitions(addresses)))
    return llvm_fault(std::move(error));
  return {};
}

} // namespace versus
