// The cases engine/create and library/churn: what it costs to have an engine, and a library, for a short time.
//
// engine/create: from Engine::create to the end of the last handle. `orc` is an LLJIT that is made and destroyed.
//
// library/churn: an anonymous library is made, a small module linked into it from its bytes, looked up and called, and the
// library dropped: the day of an engine that compiles queries. The thread has registered at the border and calls inside of
// an entry, so that it never delays what it has dropped. `tenon` drops the last handle, the memory is freed in the
// background; `tenon_close` closes the library with Quiet::caller_guarantees. `tenon_more` is the memory that the process
// has at the end beyond what it had after a tenth of the rounds.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "llvm_fault.h"
#include "process.h"
#include "tiny.h"

#include <llvm/ExecutionEngine/Orc/LLJIT.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/TargetSelect.h>

namespace versus {
namespace {

namespace orc = llvm::orc;

constexpr std::size_t create_rounds = 201;
constexpr std::size_t churn_usual = 100'000, churn_full = 1'000'000, churn_orc = 1000;
constexpr std::size_t churn_batch = 100;

Result<void> create_tenon() {
  auto engine = tenon::Engine::create();
  if (!engine) return std::move(engine).error();
  return {};
}

Result<void> create_orc() {
  auto jit = orc::LLJITBuilder().create();
  if (!jit) return llvm_fault(jit.takeError());
  return {};
}

Row run_create(const Settings& settings) {
  Row row{"engine/create", "us", {}, {}, {}};
  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  struct One {
    Figure figure;
    Result<void> (*run)();
  };
  One all[] = {{{"tenon", {}, {}}, create_tenon}, {{"orc", {}, {}}, create_orc}};
  settings.progress(row.case_name);
  in_turns(std::size(all), settings.repeat != 0 ? settings.repeat : create_rounds, [&](std::size_t index) {
    const double begin = now_ms();
    auto done = all[index].run();
    if (done)
      all[index].figure.samples.add((now_ms() - begin) * 1e3);
    else
      row.faults.push_back(all[index].figure.name + ": " + done.error().message);
  });
  for (One& one : all) row.figures.push_back(std::move(one.figure));
  row.note = "made and destroyed, empty";
  return row;
}

Result<void> churn_once(tenon::Engine& engine, tenon::Border& border, const ObjectBytes& bytes, bool close) {
  auto library = engine.library();
  if (!library) return std::move(library).error();
  auto object = tenon::Object::borrow(bytes, nullptr, "query");
  if (!object) return std::move(object).error();
  tenon::Change change = engine.change();
  change.add(*library, std::move(*object));
  auto committed = commit_all(std::move(change));
  if (!committed) return std::move(committed).error();
  auto address = library->find(TinyObjects::name(0).data());
  if (!address) return Error{ErrorCode::undefined, "the query was not found"};
  {
    tenon::Border::Entry entry(border);
    if (address->as<int (*)(int)>()(0) != 0) return Error{ErrorCode::unsupported, "the query gave another number"};
  }
  return close ? library->close(tenon::Quiet::caller_guarantees) : Result<void>();
}

Result<void> churn_tenon(const ObjectBytes& bytes, bool close, std::size_t rounds, const Settings& settings, Figure& each,
                         Figure& more) {
  auto engine = tenon::Engine::create();
  if (!engine) return std::move(engine).error();
  auto border = engine->border("main");
  if (!border) return std::move(border).error();
  std::int64_t early = 0;
  for (std::size_t done = 0; done < rounds; done += churn_batch) {
    if (done % 10'000 == 0) settings.progress("library/churn: " + std::to_string(done) + " rounds");
    const double begin = now_ms();
    for (std::size_t i = 0; i < churn_batch; ++i)
      if (auto churned = churn_once(*engine, *border, bytes, close); !churned) return churned;
    each.samples.add((now_ms() - begin) * 1e3 / churn_batch);
    if (done <= rounds / 10) early = resident_bytes();
  }
  more.samples.add(static_cast<double>(resident_bytes() - early) / 1e6);
  return {};
}

llvm::Error churn_orc_once(orc::LLJIT& jit, const ObjectBytes& bytes, std::size_t round) {
  auto dylib = jit.createJITDylib("query" + std::to_string(round));
  if (!dylib) return dylib.takeError();
  llvm::StringRef content(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (llvm::Error error = jit.addObjectFile(*dylib, llvm::MemoryBuffer::getMemBuffer({content, "query"}, false)))
    return error;
  auto address = jit.lookup(*dylib, TinyObjects::name(0).data());
  if (!address) return address.takeError();
  if (address->toPtr<int (*)(int)>()(0) != 0) return llvm::createStringError("the query gave another number");
  return jit.getExecutionSession().removeJITDylib(*dylib);
}

Result<void> churn_orc_all(const ObjectBytes& bytes, Figure& each) {
  auto jit = orc::LLJITBuilder().create();
  if (!jit) return llvm_fault(jit.takeError());
  for (std::size_t done = 0; done < churn_orc; done += churn_batch) {
    const double begin = now_ms();
    for (std::size_t i = 0; i < churn_batch; ++i)
      if (llvm::Error error = churn_orc_once(**jit, bytes, done + i)) return llvm_fault(std::move(error));
    each.samples.add((now_ms() - begin) * 1e3 / churn_batch);
  }
  return {};
}

Row run_churn(const Settings& settings) {
  Row row{"library/churn", "us", {}, {}, {}};
  llvm::InitializeNativeTarget();
  llvm::InitializeNativeTargetAsmPrinter();
  auto objects = TinyObjects::create();
  if (!objects) return row.faults.push_back(objects.error().message), row;
  const ObjectBytes bytes = objects->first();
  const std::size_t rounds = settings.full ? churn_full : churn_usual;
  Figure dropped{"tenon", {}, {}}, closed{"tenon_close", {}, {}}, peer{"orc", {}, {}};
  Figure dropped_more{"tenon_more", {}, {}, "MB"}, closed_more{"tenon_close_more", {}, {}, "MB"};
  if (auto done = churn_tenon(bytes, false, rounds, settings, dropped, dropped_more); !done)
    row.faults.push_back("tenon: " + done.error().message);
  if (auto done = churn_tenon(bytes, true, rounds, settings, closed, closed_more); !done)
    row.faults.push_back("tenon_close: " + done.error().message);
  if (auto done = churn_orc_all(bytes, peer); !done) row.faults.push_back("orc: " + done.error().message);
  for (Figure* figure : {&dropped, &closed, &peer, &dropped_more, &closed_more}) row.figures.push_back(std::move(*figure));
  row.note = std::to_string(rounds) + " rounds" + (settings.full ? "" : " (a million with --full)") + ", orc " +
             std::to_string(churn_orc) + "; *_more: memory of the process at the end, against after a tenth of the rounds";
  return row;
}

} // namespace

std::vector<Case> engine_cases() {
  return {{"engine/create", "an engine is made and destroyed", run_create},
          {"library/churn", "an anonymous library is made, a small module linked into it, called and dropped", run_churn}};
}

} // namespace versus
