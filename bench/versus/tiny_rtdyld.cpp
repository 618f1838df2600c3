// RuntimeDyld by itself and tiny modules: one instance and one SectionMemoryManager for all, made executable after each.
// It can't remove.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "llvm_fault.h"
#include "tiny_linkers.h"

#include <llvm/ExecutionEngine/RuntimeDyld.h>
#include <llvm/ExecutionEngine/SectionMemoryManager.h>
#include <llvm/Object/ObjectFile.h>

#include <dlfcn.h>

#include <optional>

namespace versus {
namespace {

// Asked for what RuntimeDyld's own table lacks.
class HostResolver final : public llvm::JITSymbolResolver {
public:
  void lookup(const LookupSet& names, OnResolvedFunction done) override {
    LookupResult result;
    for (llvm::StringRef name : names) {
      auto address = reinterpret_cast<std::uintptr_t>(dlsym(RTLD_DEFAULT, name.str().c_str()));
      if (address == 0) return done(llvm::createStringError("undefined: " + name));
      result[name] = llvm::JITEvaluatedSymbol(address, llvm::JITSymbolFlags::Exported);
    }
    done(std::move(result));
  }
  llvm::Expected<LookupSet> getResponsibilitySet(const LookupSet& names) override { return names; }
};

struct Instance {
  llvm::SectionMemoryManager memory;
  HostResolver resolver;
  llvm::RuntimeDyld linker{memory, resolver};
};

class TinyRuntimeDyld final : public TinyLinker {
public:
  ~TinyRuntimeDyld() override { stop(); }

  const char* name() const override { return "rtdyld"; }

  Result<void> start(std::size_t) override {
    stop();
    instance_.emplace();
    return {};
  }

  Result<std::uint64_t> add(std::span<const std::byte> bytes, const char* wanted) override {
    llvm::StringRef content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    auto object = llvm::object::ObjectFile::createELFObjectFile({content, wanted});
    if (!object) return llvm_fault(object.takeError());
    llvm::RuntimeDyld& linker = instance_->linker;
    linker.loadObject(**object);
    linker.resolveRelocations();
    if (linker.hasError()) return Error{ErrorCode::unsupported, linker.getErrorString().str()};
    linker.registerEHFrames();
    std::string message;
    if (instance_->memory.finalizeMemory(&message)) return Error{ErrorCode::system, message};
    return linker.getSymbol(wanted).getAddress();
  }

  Result<void> remove(std::size_t) override { return Error{ErrorCode::unsupported, "RuntimeDyld can't remove"}; }

  void stop() override {
    if (!instance_) return;
    instance_->linker.deregisterEHFrames();
    instance_.reset();
  }

private:
  std::optional<Instance> instance_;
};

} // namespace

std::unique_ptr<TinyLinker> make_tiny_rtdyld() { return std::make_unique<TinyRuntimeDyld>(); }

} // namespace versus
