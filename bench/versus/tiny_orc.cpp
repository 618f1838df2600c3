// LLJIT with JITLink and tiny modules: one JITDylib, LLJIT::lookup for each name. Modules that are to be removed have a
// resource tracker each; the others have none, which is cheaper.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "llvm_fault.h"
#include "tiny_linkers.h"

#include <llvm/ExecutionEngine/Orc/LLJIT.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>

namespace versus {
namespace {

namespace orc = llvm::orc;

class TinyOrc final : public TinyLinker {
public:
  const char* name() const override { return "orc"; }

  Result<void> start(std::size_t removals) override {
    stop();
    removals_ = removals;
    trackers_.reserve(removals);
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    auto jit = orc::LLJITBuilder().create();
    if (!jit) return llvm_fault(jit.takeError());
    jit_ = std::move(*jit);
    return {};
  }

  Result<std::uint64_t> add(std::span<const std::byte> bytes, const char* wanted) override {
    llvm::StringRef content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    auto buffer = llvm::MemoryBuffer::getMemBuffer({content, wanted}, false);
    orc::JITDylib& dylib = jit_->getMainJITDylib();
    llvm::Error error = llvm::Error::success();
    if (trackers_.size() < removals_) {
      trackers_.push_back(dylib.createResourceTracker());
      error = jit_->addObjectFile(trackers_.back(), std::move(buffer));
    } else {
      error = jit_->addObjectFile(dylib, std::move(buffer));
    }
    if (error) return llvm_fault(std::move(error));
    auto address = jit_->lookup(wanted);
    if (!address) return llvm_fault(address.takeError());
    return address->getValue();
  }

  Result<void> remove(std::size_t index) override {
    llvm::Error error = trackers_[index]->remove();
    trackers_[index] = nullptr;
    if (error) return llvm_fault(std::move(error));
    return {};
  }

  void stop() override {
    trackers_.clear();
    jit_.reset();
  }

private:
  std::size_t removals_ = 0;
  std::unique_ptr<orc::LLJIT> jit_;
  std::vector<orc::ResourceTrackerSP> trackers_;
};

} // namespace

std::unique_ptr<TinyLinker> make_tiny_orc() { return std::make_unique<TinyOrc>(); }

} // namespace versus
