// LLVM's LLJIT, with JITLink (its default on x86-64, frame registration included) and with the RuntimeDyld layer.
//
// One warm LLJIT serves all rounds, each in a fresh JITDylib; the names are looked up in one batch, which is the fastest way
// that it has and, as it links on demand, what makes it link. Initializers are not run (no initialize()).
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "llvm_fault.h"
#include "participant.h"

#include <llvm/ExecutionEngine/Orc/AbsoluteSymbols.h>
#include <llvm/ExecutionEngine/Orc/LLJIT.h>
#include <llvm/ExecutionEngine/Orc/RTDyldObjectLinkingLayer.h>
#include <llvm/ExecutionEngine/SectionMemoryManager.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>

namespace versus {
namespace {

namespace orc = llvm::orc;

class Orc final : public Participant {
public:
  Orc(const char* name, bool runtime_dyld) : name_(name), runtime_dyld_(runtime_dyld) {}
  ~Orc() override { (void)remove(); }

  const char* name() const override { return name_; }

  Result<void> link(const InputSet& set, std::vector<std::uint64_t>& found) override {
    if (!jit_)
      if (llvm::Error error = create()) return llvm_fault(std::move(error)); // in the untimed first round
    if (llvm::Error error = link_into_new(set, found)) return llvm_fault(std::move(error));
    return {};
  }

  Result<void> remove() override {
    if (dylib_ == nullptr) return {};
    llvm::Error error = jit_->getExecutionSession().removeJITDylib(*dylib_);
    dylib_ = nullptr;
    if (error) return llvm_fault(std::move(error));
    return {};
  }

private:
  llvm::Error create() {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    orc::LLJITBuilder builder;
    if (runtime_dyld_)
      builder.setObjectLinkingLayerCreator([](orc::ExecutionSession& session) {
        return std::make_unique<orc::RTDyldObjectLinkingLayer>(
            session, [](const llvm::MemoryBuffer&) { return std::make_unique<llvm::SectionMemoryManager>(); });
      });
    auto jit = builder.create();
    if (!jit) return jit.takeError();
    jit_ = std::move(*jit);
    return llvm::Error::success();
  }

  llvm::Error link_into_new(const InputSet& set, std::vector<std::uint64_t>& found) {
    orc::ExecutionSession& session = jit_->getExecutionSession();
    auto dylib = jit_->createJITDylib("round" + std::to_string(rounds_++));
    if (!dylib) return dylib.takeError();
    dylib_ = &*dylib;
    orc::SymbolMap absolutes;
    for (const Absolute& absolute : set.absolutes)
      if (absolute.name != "atexit") // every JITDylib of an LLJIT has one
        absolutes[session.intern(absolute.name)] = {orc::ExecutorAddr(absolute.address), llvm::JITSymbolFlags::Exported};
    if (!absolutes.empty())
      if (llvm::Error error = dylib_->define(orc::absoluteSymbols(std::move(absolutes)))) return error;
    for (const InputObject& object : set.objects)
      if (llvm::Error error = jit_->addObjectFile(*dylib_, llvm::MemoryBuffer::getMemBuffer(buffer_of(object), false)))
        return error;
    std::vector<orc::SymbolStringPtr> names;
    names.reserve(set.names.size());
    for (const std::string& name : set.names) names.push_back(session.intern(name));
    orc::SymbolLookupSet wanted(llvm::ArrayRef<orc::SymbolStringPtr>{names});
    for (const std::string& name : set.hidden_roots) wanted.add(session.intern(name));
    auto result = session.lookup({{dylib_, orc::JITDylibLookupFlags::MatchAllSymbols}}, std::move(wanted));
    if (!result) return result.takeError();
    for (std::size_t i = 0; i < names.size(); ++i) found[i] = result->find(names[i])->second.getAddress().getValue();
    return llvm::Error::success();
  }

  const char* name_;
  bool runtime_dyld_;
  std::unique_ptr<orc::LLJIT> jit_;
  orc::JITDylib* dylib_ = nullptr;
  std::size_t rounds_ = 0;
};

} // namespace

std::unique_ptr<Participant> make_orc() { return std::make_unique<Orc>("orc", false); }
std::unique_ptr<Participant> make_orc_rtdyld() { return std::make_unique<Orc>("orc_rtdyld", true); }

} // namespace versus
