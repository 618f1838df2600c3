// JITLink by itself and tiny modules: jitlink::link for each, a table of interned names, frames registered as LLVM's own
// plugin registers them. An object is finished before the next one begins, so what it needs is in the table or in the host.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "llvm_fault.h"
#include "tiny_linkers.h"

#include <llvm/ADT/DenseMap.h>
#include <llvm/ExecutionEngine/JITLink/EHFrameSupport.h>
#include <llvm/ExecutionEngine/JITLink/JITLink.h>
#include <llvm/ExecutionEngine/Orc/SymbolStringPool.h>
#include <llvm/ExecutionEngine/Orc/TargetProcess/RegisterEHFrames.h>

#include <dlfcn.h>

#include <optional>

namespace versus {
namespace {

namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;

struct Linked {
  jitlink::JITLinkMemoryManager::FinalizedAlloc allocation;
  const void* frames = nullptr;
  std::size_t frames_size = 0;
};

struct Shared {
  std::shared_ptr<orc::SymbolStringPool> names = std::make_shared<orc::SymbolStringPool>();
  std::unique_ptr<jitlink::InProcessMemoryManager> memory = llvm::cantFail(jitlink::InProcessMemoryManager::Create());
  llvm::DenseMap<orc::SymbolStringPtr, orc::ExecutorSymbolDef> table;
  std::vector<Linked> linked;
  llvm::Error failure = llvm::Error::success();

  void fail(llvm::Error error) { failure = llvm::joinErrors(std::move(failure), std::move(error)); }
};

class TinyContext final : public jitlink::JITLinkContext {
public:
  explicit TinyContext(Shared& shared) : JITLinkContext(nullptr), shared_(shared) {}

  jitlink::JITLinkMemoryManager& getMemoryManager() override { return *shared_.memory; }
  void notifyFailed(llvm::Error error) override { shared_.fail(std::move(error)); }

  void lookup(const LookupMap& symbols, std::unique_ptr<jitlink::JITLinkAsyncLookupContinuation> go_on) override {
    jitlink::AsyncLookupResult result;
    for (const auto& [name, flags] : symbols) {
      auto place = shared_.table.find(name);
      if (place != shared_.table.end()) {
        result[name] = place->second;
        continue;
      }
      void* address = dlsym(RTLD_DEFAULT, (*name).str().c_str());
      if (address == nullptr) return go_on->run(llvm::createStringError("undefined: " + llvm::Twine(*name)));
      result[name] = {orc::ExecutorAddr::fromPtr(address), llvm::JITSymbolFlags::Exported};
    }
    go_on->run(std::move(result));
  }

  llvm::Error notifyResolved(jitlink::LinkGraph& graph) override {
    for (const jitlink::Symbol* symbol : graph.defined_symbols())
      if (symbol->hasName() && symbol->getScope() != jitlink::Scope::Local)
        shared_.table[symbol->getName()] = {symbol->getAddress(), llvm::JITSymbolFlags::Exported};
    return llvm::Error::success();
  }

  void notifyFinalized(jitlink::JITLinkMemoryManager::FinalizedAlloc allocation) override {
    shared_.linked.push_back({std::move(allocation), frames_, frames_size_});
    if (frames_size_ == 0) return;
    if (llvm::Error error = orc::registerEHFrameSection(frames_, frames_size_)) shared_.fail(std::move(error));
  }

  llvm::Error modifyPassConfig(jitlink::LinkGraph&, jitlink::PassConfiguration& config) override {
    config.PostFixupPasses.push_back([this](jitlink::LinkGraph& graph) {
      if (jitlink::Section* section = jitlink::getEHFrameSection(graph)) {
        jitlink::SectionRange range(*section);
        frames_ = range.getStart().toPtr<const void*>();
        frames_size_ = static_cast<std::size_t>(range.getSize());
      }
      return llvm::Error::success();
    });
    return llvm::Error::success();
  }

private:
  Shared& shared_;
  const void* frames_ = nullptr;
  std::size_t frames_size_ = 0;
};

class TinyJitLink final : public TinyLinker {
public:
  ~TinyJitLink() override { stop(); }

  const char* name() const override { return "jitlink"; }

  Result<void> start(std::size_t) override {
    stop();
    shared_.emplace();
    return {};
  }

  Result<std::uint64_t> add(std::span<const std::byte> bytes, const char* wanted) override {
    llvm::StringRef content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    auto graph = jitlink::createLinkGraphFromObject({content, wanted}, shared_->names);
    if (!graph) return llvm_fault(graph.takeError());
    jitlink::link(std::move(*graph), std::make_unique<TinyContext>(*shared_));
    if (auto failed = failure(); !failed) return std::move(failed).error();
    auto place = shared_->table.find(shared_->names->intern(wanted));
    if (place == shared_->table.end()) return Error{ErrorCode::undefined, std::string(wanted) + " was not found"};
    return place->second.getAddress().getValue();
  }

  Result<void> remove(std::size_t index) override {
    Linked& linked = shared_->linked[index];
    if (linked.frames_size != 0)
      if (llvm::Error error = orc::deregisterEHFrameSection(linked.frames, linked.frames_size))
        shared_->fail(std::move(error));
    linked.frames_size = 0;
    if (llvm::Error error = shared_->memory->deallocate(std::move(linked.allocation))) shared_->fail(std::move(error));
    return failure();
  }

  void stop() override {
    if (!shared_) return;
    for (std::size_t i = shared_->linked.size(); i-- > 0;)
      if (shared_->linked[i].allocation) (void)remove(i);
    llvm::consumeError(std::move(shared_->failure));
    shared_.reset();
  }

private:
  Result<void> failure() {
    if (llvm::Error error = std::exchange(shared_->failure, llvm::Error::success())) return llvm_fault(std::move(error));
    return {};
  }

  std::optional<Shared> shared_;
};

} // namespace

std::unique_ptr<TinyLinker> make_tiny_jitlink() { return std::make_unique<TinyJitLink>(); }

} // namespace versus
