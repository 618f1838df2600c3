// LLVM's RuntimeDyld by itself: one instance and one SectionMemoryManager for the whole set, which is what it does best; it
// keeps the table of symbols itself and asks only for those of the host.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "llvm_fault.h"
#include "participant.h"

#include <llvm/ADT/StringMap.h>
#include <llvm/ExecutionEngine/RuntimeDyld.h>
#include <llvm/ExecutionEngine/SectionMemoryManager.h>
#include <llvm/Object/ObjectFile.h>

#include <dlfcn.h>

namespace versus {
namespace {

class Resolver final : public llvm::JITSymbolResolver {
public:
  explicit Resolver(const InputSet& set) {
    for (const Absolute& absolute : set.absolutes) absolutes_[absolute.name] = absolute.address;
    absolutes_["__dso_handle"] = dso_handle_address();
  }

  void lookup(const LookupSet& names, OnResolvedFunction done) override {
    LookupResult result;
    for (llvm::StringRef name : names) {
      auto place = absolutes_.find(name);
      std::uint64_t address = place != absolutes_.end() ? place->second : host(name);
      if (address == 0) return done(llvm::createStringError("undefined: " + name));
      result[name] = llvm::JITEvaluatedSymbol(address, llvm::JITSymbolFlags::Exported);
    }
    done(std::move(result));
  }

  // RuntimeDyld itself passes over a weak symbol that it has a definition of.
  llvm::Expected<LookupSet> getResponsibilitySet(const LookupSet& names) override { return names; }

private:
  static std::uint64_t host(llvm::StringRef name) {
    return reinterpret_cast<std::uintptr_t>(dlsym(RTLD_DEFAULT, name.str().c_str()));
  }

  llvm::StringMap<std::uint64_t> absolutes_;
};

struct Round {
  explicit Round(const InputSet& set) : resolver(set), linker(memory, resolver) {}

  llvm::SectionMemoryManager memory;
  Resolver resolver;
  llvm::RuntimeDyld linker;
};

class RuntimeDyld final : public Participant {
public:
  ~RuntimeDyld() override { (void)remove(); }

  const char* name() const override { return "rtdyld"; }

  Result<void> link(const InputSet& set, std::vector<std::uint64_t>& found) override {
    round_ = std::make_unique<Round>(set);
    llvm::RuntimeDyld& linker = round_->linker;
    for (const InputObject& input : set.objects) {
      auto object = llvm::object::ObjectFile::createELFObjectFile(buffer_of(input));
      if (!object) return llvm_fault(object.takeError());
      linker.loadObject(**object);
      if (linker.hasError()) return failed(input.name);
    }
    linker.resolveRelocations();
    if (linker.hasError()) return failed("resolving");
    linker.registerEHFrames();
    std::string message;
    if (round_->memory.finalizeMemory(&message)) return Error{ErrorCode::system, message};
    for (std::size_t i = 0; i < set.names.size(); ++i) found[i] = linker.getSymbol(set.names[i]).getAddress();
    return {};
  }

  Result<void> remove() override {
    if (!round_) return {};
    round_->linker.deregisterEHFrames();
    round_.reset();
    return {};
  }

private:
  Error failed(const std::string& where) {
    return Error{ErrorCode::unsupported, where + ": " + round_->linker.getErrorString().str()};
  }

  std::unique_ptr<Round> round_;
};

} // namespace

std::unique_ptr<Participant> make_rtdyld() { return std::make_unique<RuntimeDyld>(); }

} // namespace versus
