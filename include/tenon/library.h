// Libraries: namespaces of symbols, with an order in which other places are searched.
//
// Which definition wins. A module's reference is looked for (1) among the modules of its own change and library, (2) in what
// its library holds already, (3) in the library's sources, in order. The first that has it wins; archives contribute members
// then. Inside one change a strong definition beats common ones and these beat weak ones, the first of several weak or
// COMDAT ones stays, and two strong ones are an error. What a library has published already stays: later weak, common and
// COMDAT definitions yield to it, a later strong one is an error, because others are bound to what is there. Section bounds
// (__start_X, __stop_X) that nothing defines span the sections X of all modules of one change and library, as an ordinary
// linker puts those of all objects together; later changes do not add to them, and those modules can be removed only
// together. The host is one source like others, so a library's own definition wins over the host's, weak and COMDAT ones
// included. One exception, because the symbol's binding demands it: a GNU_UNIQUE definition yields to one that the host
// process has, so that there is one in the process.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/object.h>
#include <tenon/result.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tenon {

namespace engine {
struct LibraryState;
struct ModuleState;
struct EngineState;
struct ChangeState;
} // namespace engine

// A symbol that a change needs and that the change itself does not define.
struct Needed {
  std::string_view name;
  bool weak = false;     // every reference is weak: absence is no error
  bool function = false; // referred to as a function (called), as far as the object shows
};

struct Answer {
  enum class Kind : unsigned char { absent, address, weak_null };
  Kind kind = Kind::absent;
  Addr address;

  static Answer at(Addr address) noexcept { return {Kind::address, address}; }
  // The symbol is known not to exist and reads as null, as an undefined weak one does.
  static Answer null() noexcept { return {Kind::weak_null, {}}; }
};

// The client's own look-up. Asked for a batch at a time, from the thread that drafts a change, with no lock of the engine's
// held; may be shared by engines, and is then asked by several threads at once if they draft at once. May not throw.
struct Resolver {
  virtual ~Resolver() = default;
  // `answers` has the size of `needed` and is all `absent`. An Error fails the draft (code `resolver`).
  virtual Result<void> resolve(std::span<const Needed> needed, std::span<Answer> answers) noexcept = 0;
};

class Library;
class Redirect;

// One place that a library searches. A plain value: making and copying one needs no memory.
class Source {
public:
  // The process itself: what dlsym(RTLD_DEFAULT) finds, and what it can't but programs expect (atexit and its kin).
  static Source process() noexcept;
  // One shared object, by its dlopen handle, which must stay open.
  static Source shared(void* dlopen_handle) noexcept;
  // Another library of the same engine.
  static Source library(const Library& library) noexcept;
  // Members are linked in, into the searching library, when they define something that is needed.
  static Source archive(Archive archive) noexcept;
  static Source resolver(std::shared_ptr<Resolver> resolver) noexcept;

  Source(const Source&) noexcept = default;
  Source(Source&&) noexcept = default;
  Source& operator=(const Source&) noexcept = default;
  Source& operator=(Source&&) noexcept = default;
  ~Source() = default;

  // What the linker sees of it: the member that `kind` names.
  struct State {
    enum class Kind : unsigned char { process, shared, library, archive, resolver };
    Kind kind = Kind::process;
    void* handle = nullptr;
    std::shared_ptr<engine::LibraryState> library;
    std::optional<Archive> archive;
    std::shared_ptr<Resolver> resolver;
  };
  const State& state() const noexcept { return state_; }

private:
  explicit Source(State state) noexcept : state_(std::move(state)) {}
  State state_;
};

// Said when a library is made.
struct LibraryOptions {
  // Its modules can be replaced while threads run them: see Change::replace. Each function has a permanent stub, which is
  // its address (8 bytes of code, 8 of slot); direct calls between modules and inside of them cost what they cost anyway.
  // Without it a function's address is its own, and modules can only be added and removed.
  bool replaceable = false;
  // Its modules live as long as somebody can reach them: through a counted handle (Function, Kept, and Committed for what it
  // has just committed), from a module that is not collected or from released code, or from a collected module that is
  // itself alive, of whatever library. The others go as if Change::remove had removed them, with Quiet::prove, dependent
  // ones and cycles together: a thread of the engine's own finds them, in steps of a fraction of a millisecond, and so does
  // Engine::collect. From one moment to the next no look-up finds any of them.
  //
  // What counts is what the engine knows: references that the linker has resolved, and handles. An address that find() gave,
  // that an edit or a resolver passed on, or that the program keeps, does not count; nor does a Module. A thread that runs
  // a module's code delays its memory, not its end. A module that provides a COMDAT group lives while others share it.
  //
  // An anonymous library of this kind does not close with its last handle but once all its modules are gone.
  bool collected = false;
};

// A symbol with a fixed address.
struct Absolute {
  std::string_view name;
  Addr address;
  // A rebindable one may be defined again later: everything that was linked against it follows at once, because it is
  // reached through a slot. Code that was not compiled as PIC can't refer to it as data.
  bool rebindable = false;
};

// What a module costs, in bytes.
struct Usage {
  std::uint64_t code = 0, rodata = 0, data = 0, stubs = 0, got = 0, slots = 0, tls = 0, unwind = 0;
  std::uint64_t bookkeeping = 0; // on the heap: symbols, kept relocations, names
  std::uint64_t total() const noexcept { return code + rodata + data + stubs + got + slots + tls + unwind + bookkeeping; }
};

// Whether threads may be inside of code that is removed.
enum class Quiet : unsigned char {
  prove,             // the engine sees to it: the memory is freed when no thread can be inside any more, in the background
  caller_guarantees, // nobody is, and nobody will be: it is freed at once
};

// A handle on a module. Counted: it keeps what is known of the module, not the module, which its library owns until a change
// removes it or the library is closed.
class Module {
public:
  const std::string& name() const noexcept;
  bool linked() const noexcept; // false once it has been removed
  Usage usage() const noexcept;

  // Makes the calling thread's copies of the module's thread-local variables now, which the first access does otherwise:
  // that allocates and takes a lock, which is not for a real-time thread. A new version has the same ones. Nothing happens
  // if there are none, or the module has been removed. Errors: out_of_memory.
  Result<void> touch_thread_locals() const;

  explicit Module(std::shared_ptr<engine::ModuleState> state) noexcept : state_(std::move(state)) {}
  const std::shared_ptr<engine::ModuleState>& state() const noexcept { return state_; }

private:
  std::shared_ptr<engine::ModuleState> state_;
};

// Keeps a module that would be collected alive (LibraryOptions::collected), and the memory of any module, as a Function
// does. Copyable, counted; it keeps the engine, too. Any thread.
class Kept {
public:
  // Of the symbol that was asked for; null if it was a module.
  Addr address() const noexcept { return address_; }

  Kept(Addr address, std::shared_ptr<const void> keeps) noexcept : address_(address), keeps_(std::move(keeps)) {}

private:
  Addr address_;
  std::shared_ptr<const void> keeps_;
};

template <class Signature> class Function;

// A callable that keeps the code it calls in memory, even when its module is removed: the symbol is gone then, finalizers
// have run, but the call does not jump into the void. A module that is collected stays alive for it. Copyable, counted; the
// call itself costs an indirect call, no guard.
template <class R, class... A> class Function<R(A...)> {
public:
  Function(R (*raw)(A...), std::shared_ptr<const void> keeps) noexcept : raw_(raw), keeps_(std::move(keeps)) {}

  R operator()(A... arguments) const { return raw_(std::forward<A>(arguments)...); }
  // Valid while this handle, or a copy, lives.
  R (*raw() const noexcept)(A...) { return raw_; }

private:
  R (*raw_)(A...);
  std::shared_ptr<const void> keeps_;
};

// A counted handle. The last handle of an anonymous library closes it; a named one lives until close() or the engine's end.
// Any thread.
class Library {
public:
  const std::string& name() const noexcept;

  // Replaces the search order. Changes drafted later see it. Errors: invalid_argument (a library of another engine).
  Result<void> search(std::vector<Source> sources);

  // Defines symbols by address, forward references included, which are satisfied for good by it. A name that is defined
  // already: rebound if both were declared rebindable, else `duplicate`, and then none of the list is defined.
  Result<void> define(std::span<const Absolute> symbols);

  // The address of a symbol that this library itself holds; hidden ones are not found. A probe: absence is no error.
  std::optional<Addr> find(std::string_view name) const noexcept;
  // A batch: answers in order, absent ones zero. `addresses` has the size of `names`. Returns how many were found.
  std::size_t find(std::span<const std::string_view> names, std::span<Addr> addresses) const noexcept;
  // In this library, then in its sources in order (archives are not linked in by a look-up). Absence is no error. Errors:
  // out_of_memory, resolver.
  Result<std::optional<Addr>> find_anywhere(std::string_view name) const;

  // Errors: undefined.
  template <class Signature> Result<Function<Signature>> function(std::string_view name) const {
    Result<Pinned> pinned = pin(name);
    if (!pinned) return std::move(pinned).error();
    return Function<Signature>(pinned->address.template as<std::add_pointer_t<Signature>>(), std::move(pinned->keeps));
  }

  // A handle by which calls of the function can be led elsewhere; see redirect.h. Errors: undefined, unsupported (the
  // library is not replaceable, or it is no function).
  Result<Redirect> redirect(std::string_view function) const;
  // Keeps the module that defines a symbol. Errors: undefined.
  Result<Kept> keep(std::string_view name) const;
  // Keeps a module of this library. Errors: undefined (it has been removed or collected), invalid_argument.
  Result<Kept> keep(const Module& module) const;

  // The modules it holds, in the order in which they were committed. Errors: out_of_memory.
  Result<std::vector<Module>> modules() const;

  // Removes all modules, finalizers first, in reverse order. Errors: still_used (by modules of other libraries; nothing
  // changes).
  Result<void> close(Quiet quiet = Quiet::prove);

  struct Handle;
  explicit Library(std::shared_ptr<Handle> handle) noexcept : handle_(std::move(handle)) {}
  const Handle& handle() const noexcept { return *handle_; }
  const std::shared_ptr<Handle>& shared_handle() const noexcept { return handle_; }

private:
  struct Pinned {
    Addr address;
    std::shared_ptr<const void> keeps;
  };
  Result<Pinned> pin(std::string_view name) const;

  std::shared_ptr<Handle> handle_;
};

} // namespace tenon
