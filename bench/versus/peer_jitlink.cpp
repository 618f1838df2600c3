// LLVM's JITLink by itself: jitlink::link per object, without ORC's sessions, queries and dylibs.
//
// The objects need each other in cycles, so every link is begun before any is finished: JITLink allocates and reports
// addresses, then asks for the externals by a continuation, which is kept until all objects have reported. The first object
// that has a weak symbol provides it, unless a strong definition follows: then the others use that one. In the graphs that
// lose, the symbol is made external and its block, if nothing else refers to it, is pruned, as ORC does it. One table of
// interned names serves all objects. Parsing all graphs before the first link would be 10 % slower on the largest set.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "llvm_fault.h"
#include "participant.h"

#include <llvm/ADT/DenseMap.h>
#include <llvm/ExecutionEngine/JITLink/EHFrameSupport.h>
#include <llvm/ExecutionEngine/JITLink/JITLink.h>
#include <llvm/ExecutionEngine/Orc/SymbolStringPool.h>
#include <llvm/ExecutionEngine/Orc/TargetProcess/RegisterEHFrames.h>

#include <dlfcn.h>

namespace versus {
namespace {

namespace jitlink = llvm::jitlink;
namespace orc = llvm::orc;

struct Provider {
  const jitlink::LinkGraph* graph = nullptr; // null: an absolute symbol
  bool weak = false;
  orc::ExecutorSymbolDef definition;
};

struct Waiting {
  std::vector<std::pair<orc::SymbolStringPtr, bool>> needed; // and whether weakly
  std::unique_ptr<jitlink::JITLinkAsyncLookupContinuation> go_on;
};

struct Frames {
  const void* begin;
  std::size_t size;
};

// What the contexts of one round share.
struct Round {
  explicit Round(jitlink::JITLinkMemoryManager& memory_manager) : memory(memory_manager) {}

  void fail(llvm::Error error) { failure = llvm::joinErrors(std::move(failure), std::move(error)); }

  jitlink::JITLinkMemoryManager& memory;
  llvm::DenseMap<orc::SymbolStringPtr, Provider> table;
  std::vector<Waiting> waiting;
  std::vector<jitlink::JITLinkMemoryManager::FinalizedAlloc> allocations;
  std::vector<Frames> frames;
  std::size_t finalized = 0;
  llvm::Error failure = llvm::Error::success();
};

bool provides(const Round& round, const jitlink::LinkGraph& graph, const jitlink::Symbol& symbol) {
  auto place = round.table.find(symbol.getName());
  return place != round.table.end() && place->second.graph == &graph;
}

bool is_shared(const jitlink::Symbol& symbol) { return symbol.hasName() && symbol.getScope() != jitlink::Scope::Local; }

void claim(Round& round, jitlink::LinkGraph& graph) {
  for (jitlink::Symbol* symbol : graph.defined_symbols()) {
    if (!is_shared(*symbol)) continue;
    bool weak = symbol->getLinkage() == jitlink::Linkage::Weak;
    auto [place, first] = round.table.try_emplace(symbol->getName());
    if (first || (place->second.weak && !weak)) place->second = {&graph, weak, {}};
  }
}

// The mark-live pass: makes external what others provide, and keeps alive what this graph does.
llvm::Error yield_to_others(const Round& round, jitlink::LinkGraph& graph) {
  std::vector<jitlink::Symbol*> losers;
  for (jitlink::Symbol* symbol : graph.defined_symbols()) {
    if (!is_shared(*symbol)) continue;
    if (provides(round, graph, *symbol))
      symbol->setLive(true);
    else
      losers.push_back(symbol);
  }
  for (jitlink::Symbol* symbol : losers) graph.makeExternal(*symbol);
  return llvm::Error::success();
}

class Context final : public jitlink::JITLinkContext {
public:
  explicit Context(Round& round) : JITLinkContext(nullptr), round_(round) {}

  jitlink::JITLinkMemoryManager& getMemoryManager() override { return round_.memory; }
  void notifyFailed(llvm::Error error) override { round_.fail(std::move(error)); }

  void lookup(const LookupMap& symbols, std::unique_ptr<jitlink::JITLinkAsyncLookupContinuation> go_on) override {
    Waiting waiting;
    waiting.needed.reserve(symbols.size());
    for (const auto& [name, flags] : symbols)
      waiting.needed.emplace_back(name, flags == jitlink::SymbolLookupFlags::WeaklyReferencedSymbol);
    waiting.go_on = std::move(go_on);
    round_.waiting.push_back(std::move(waiting));
  }

  llvm::Error notifyResolved(jitlink::LinkGraph& graph) override {
    for (const jitlink::Symbol* symbol : graph.defined_symbols()) {
      if (!is_shared(*symbol)) continue;
      auto place = round_.table.find(symbol->getName());
      if (place != round_.table.end() && place->second.graph == &graph)
        place->second.definition = {symbol->getAddress(), llvm::JITSymbolFlags::Exported};
    }
    return llvm::Error::success();
  }

  void notifyFinalized(jitlink::JITLinkMemoryManager::FinalizedAlloc allocation) override {
    round_.allocations.push_back(std::move(allocation));
    ++round_.finalized;
    if (frames_.size == 0) return;
    if (llvm::Error error = orc::registerEHFrameSection(frames_.begin, frames_.size))
      round_.fail(std::move(error));
    else
      round_.frames.push_back(frames_);
  }

  jitlink::LinkGraphPassFunction getMarkLivePass(const llvm::Triple&) const override {
    return [&round = round_](jitlink::LinkGraph& graph) { return yield_to_others(round, graph); };
  }

  llvm::Error modifyPassConfig(jitlink::LinkGraph&, jitlink::PassConfiguration& config) override {
    config.PostFixupPasses.push_back([this](jitlink::LinkGraph& graph) {
      if (jitlink::Section* section = jitlink::getEHFrameSection(graph)) {
        jitlink::SectionRange range(*section);
        frames_ = {range.getStart().toPtr<const void*>(), static_cast<std::size_t>(range.getSize())};
      }
      return llvm::Error::success();
    });
    return llvm::Error::success();
  }

private:
  Round& round_;
  Frames frames_{nullptr, 0};
};

// Finishes one object's link: gives it the addresses that it asked for, or says which are missing.
void answer(Round& round, Waiting& waiting) {
  jitlink::AsyncLookupResult result;
  result.reserve(static_cast<unsigned>(waiting.needed.size()));
  for (auto& [name, weakly] : waiting.needed) {
    auto place = round.table.find(name);
    if (place != round.table.end()) {
      result[name] = place->second.definition;
      continue;
    }
    void* address = dlsym(RTLD_DEFAULT, (*name).str().c_str());
    if (address == nullptr && !weakly)
      return waiting.go_on->run(llvm::createStringError("undefined: " + llvm::Twine(*name)));
    result[name] = {orc::ExecutorAddr::fromPtr(address), llvm::JITSymbolFlags::Exported};
  }
  waiting.go_on->run(std::move(result));
}

class JitLink final : public Participant {
public:
  JitLink()
      : names_(std::make_shared<orc::SymbolStringPool>()),
        memory_(llvm::cantFail(jitlink::InProcessMemoryManager::Create())) {}
  ~JitLink() override { (void)remove(); }

  const char* name() const override { return "jitlink"; }

  Result<void> link(const InputSet& set, std::vector<std::uint64_t>& found) override {
    round_ = std::make_unique<Round>(*memory_);
    define(set);
    for (const InputObject& object : set.objects) {
      auto graph = jitlink::createLinkGraphFromObject(buffer_of(object), names_);
      if (!graph) return llvm_fault(graph.takeError());
      claim(*round_, **graph);
      jitlink::link(std::move(*graph), std::make_unique<Context>(*round_));
    }
    for (Waiting& waiting : round_->waiting) answer(*round_, waiting);
    round_->waiting.clear();
    if (round_->failure) return llvm_fault(std::move(round_->failure));
    if (round_->finalized != set.objects.size())
      return Error{ErrorCode::unsupported, "only " + std::to_string(round_->finalized) + " objects were finalized"};
    for (std::size_t i = 0; i < set.names.size(); ++i) {
      auto place = round_->table.find(names_->intern(set.names[i]));
      found[i] = place != round_->table.end() ? place->second.definition.getAddress().getValue() : 0;
    }
    return {};
  }

  Result<void> remove() override {
    if (!round_) return {};
    llvm::Error error = std::move(round_->failure);
    for (auto frames = round_->frames.rbegin(); frames != round_->frames.rend(); ++frames)
      error = llvm::joinErrors(std::move(error), orc::deregisterEHFrameSection(frames->begin, frames->size));
    error = llvm::joinErrors(std::move(error), memory_->deallocate(std::move(round_->allocations)));
    round_.reset();
    if (error) return llvm_fault(std::move(error));
    return {};
  }

private:
  void define(const InputSet& set) {
    auto put = [&](const std::string& name, std::uint64_t address) {
      Provider provider;
      provider.definition = {orc::ExecutorAddr(address), llvm::JITSymbolFlags::Exported};
      round_->table.try_emplace(names_->intern(name), provider);
    };
    for (const Absolute& absolute : set.absolutes) put(absolute.name, absolute.address);
    put("__dso_handle", dso_handle_address());
  }

  std::shared_ptr<orc::SymbolStringPool> names_;
  std::unique_ptr<jitlink::InProcessMemoryManager> memory_;
  std::unique_ptr<Round> round_;
};

} // namespace

std::unique_ptr<Participant> make_jitlink() { return std::make_unique<JitLink>(); }

} // namespace versus
