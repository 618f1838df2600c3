// Changes: every modification of the program is a transaction in stages, each a type that consumes the one before.
//
//     Change --draft()--> Draft --place()--> Placed --link()--> Linked --commit()--> Committed
//
// Before commit nothing is visible to anybody else, and dropping a stage (its destructor) leaves nothing behind: no symbol,
// no byte of code memory, no registration. All stages are move-only and belong to one thread at a time; different changes of
// one engine may be driven by different threads at once. A stage that was consumed must not be used again.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/library.h>
#include <tenon/memory.h>

#include <functional>
#include <optional>

namespace tenon {

struct ModuleOptions {
  std::string name;            // for messages and Library::modules(); the object's name if empty
  bool initialize = true;      // run its static initializers at commit, its finalizers when it goes
  bool debug_sections = false; // keep and relocate .debug_* too (readable at Linked, with section addresses of zero)
  bool unwinding = true;       // register its frames; off: exceptions end the program there
  // In a replaceable library: the module was compiled so that callers know nothing of a function but its declaration, not
  // even inside of the file (tenon-llvm's `replaceable`, GCC's -fno-inline -flive-patching=inline-only-static). Frames of
  // its old versions then call new versions of its functions; without it they go on calling those of their own module that
  // they were compiled with, unless debug information shows that it was compiled so that they can't know them: GCC's -fPIC,
  // Clang's -fPIC -fsemantic-interposition -grecord-command-line (public functions), or without optimization.
  bool opaque = false;
  // Symbols that may be missing now because a later module will define them ("*": any). Functions among them are called,
  // data is reached, through slots; a call before the definition has arrived ends the program with a message that names it.
  // Pointers to them in initialized data lead to a stub until then, and are filled when the definition comes unless the
  // program has changed them (in read-only data: in dual mapping only). Thread-local variables can't be forward references.
  std::vector<std::string> forward;
};

// A symbol that a draft lacks, and who needs it.
struct Missing {
  std::string name;
  std::vector<std::string> needed_by; // "MODULE: SECTION+0xOFFSET", a few of each module
};

// What a draft does not refuse, but its client should know.
struct Warning {
  std::string module;
  std::string symbol;
  std::string text; // the whole sentence
};

// An edit of a module's symbols before it is placed. Edits name global symbols, by the name that the edits before have given
// them.
struct Edit {
  enum class Kind : unsigned char { rename, localize, bind };
  Kind kind;
  ModuleId module;
  std::string symbol;
  std::string new_name; // rename
  Addr address;         // bind

  // A definition, or all references, get another name.
  static Edit rename(ModuleId module, std::string symbol, std::string new_name) noexcept;
  // A definition is no longer seen by other modules.
  static Edit localize(ModuleId module, std::string symbol) noexcept;
  // References of this module to the symbol go to that address, whatever defines it. If the module itself does, its
  // definition is published as ever. Neither thread-local variables nor IFUNCs that the module defines can be bound.
  static Edit bind(ModuleId module, std::string symbol, Addr address) noexcept;
};

// What becomes of the variables of a module that is replaced. One of the same name, size and alignment keeps its storage and
// value, function-local statics and module-local variables included, and so does a constant of the same content;
// constructors of kept variables do not run again. The unit is the section: objects compiled with data sections can gain and
// lose variables freely, others must keep the layout of their data. Variables that a compiler has numbered (`count.0`), or
// that share a name, are told apart from one version to the next by the debug information of both (-g): by the function that
// they are declared in, and their block and type if it has several of the name. Where it does not tell they are refused.
struct DataPolicy {
  // One whose size differs, or whose alignment is not met by the storage that it has.
  enum class Differing : unsigned char {
    refuse,       // an error that names it
    keep,         // its storage serves if the new one fits into it; an error otherwise
    reinitialize, // it begins anew, in new storage; an error if other modules refer to the old one
    migrate,      // likewise, and `migration` is told both places before the new one is used
  };
  struct Migration {
    std::string_view variable;
    Addr old_address;
    std::uint64_t old_size = 0;
    Addr new_address; // already has its initial content
    std::uint64_t new_size = 0;
  };
  Differing differing = Differing::refuse;
  // Called during commit, from its thread, with no lock held, before anything is visible; again if the change is drafted
  // again because of a conflict. An Error fails the commit, and nothing has happened. May not throw.
  std::function<Result<void>(const Migration&)> migration;
};

// How the code of a module that was unloaded comes back.
struct Recall {
  // Makes the module's new version. Called by the first call of any function of the module, in the calling thread, with no
  // lock held; `function` is the one that was called. Once, however many threads call at the same time: the others wait. The
  // object is committed as Change::replace would, with the options of the version before. Nothing: the callback has
  // committed a replacement itself. Empty `function`: nobody has called one, but the module ends and has functions to run
  // then (finalizers, destructors of static objects, atexit), or others that end with it have; the thread is the one that
  // removes the module, closes its library, or drops the engine's last handle. It may call what it likes, functions of
  // other unloaded modules included; that two threads wait for each other so is an error. It may not throw. A handle of the
  // engine, or of one of its libraries, that it holds keeps the engine for ever.
  std::function<Result<std::optional<Object>>(const Module& module, std::string_view function)> make;
  // Called in the calling thread when that has failed: the call can't go on. It may throw, and the exception arrives where
  // the function was called, or end the thread. If it returns, or there is none, the process ends with a message that names
  // the function and the error.
  std::function<void(const Module& module, std::string_view function, const Error& error)> failed = {};
  DataPolicy data = {}; // for the replacement
};

class Draft;
class Placed;
class Linked;
class Committed;
class Code;

// Collects what is to change. Nothing is looked at before draft(); what is wrong with an argument is said there, and that
// there was no memory to collect it.
class Change {
public:
  // `object` is kept until the change ends. Modules of one change may refer to each other in any way, cycles included.
  ModuleId add(const Library& library, Object object, ModuleOptions options = {}) noexcept;
  // A new version of a module of a replaceable library (see LibraryOptions). At commit callers in all modules reach the new
  // functions, each through its slot and its call sites, one after the other within microseconds; frames that are running
  // finish in the old ones, whose memory is freed when no thread can be inside any more. Functions and variables are matched
  // by name, module-local ones too. The Module handle, its symbols' addresses and the pointers that the program holds stay
  // valid: a function's address is that of its stub, for good.
  //
  // Errors, of draft or commit: still_used (symbols that vanish but are referred to by others: all of them, with by whom),
  // unsupported and needs_flag (variables that can't keep their storage, see DataPolicy; initializers that would run again
  // for some variables), conflict (the module was replaced or removed meanwhile), invalid_argument (the library is not
  // replaceable).
  ModuleId replace(Module module, Object object, DataPolicy data = {}, ModuleOptions options = {}) noexcept;
  // Single functions of a module by new definitions: those that `object` defines, or of these the ones in `functions`, with
  // what only they need. Everything else of the module stays. Names that the object lacks or that are not wanted are looked
  // for in the module first, its local functions and variables included; what the module lacks is added to it. Callers,
  // frames, data: as with replace(). What the replaced functions were made of is freed on its own.
  //
  // The functions that stay must not have been compiled for what the replaced ones did: the module, and every fragment of
  // several functions, must be opaque (ModuleOptions::opaque; tenon-llvm's `replaceable`). With `functions` the object needs
  // a section for each function and variable. Several of these in one change may be of the same module.
  //
  // Errors: as replace(); needs_flag (not opaque; sections that hold more), invalid_argument (no such function),
  // unsupported (variables that differ, new thread-local ones, new ones with initializers, finalizers).
  ModuleId replace_functions(Module module, Object object, std::vector<std::string> functions = {}, DataPolicy data = {},
                             ModuleOptions options = {}) noexcept;
  // The module goes at commit: its symbols at once, its memory when no thread can be inside any more. Errors at draft or
  // commit: still_used, naming who refers to it. Its COMDAT sections stay while others share them.
  void remove(Module module, Quiet quiet = Quiet::prove) noexcept;

  // The module's code goes at commit, and is freed when no thread can be inside any more; the module stays: its handle, its
  // symbols and their addresses, pointers to its functions, its variables with their values, what it refers to. The first
  // call of one of its functions makes it again, see Recall, and goes on into the new version with the arguments it has. An
  // unloaded module can be replaced, removed, and unloaded again, which changes the callback.
  //
  // What is to run at the module's end (finalizers, destructors of static objects, atexit) stays to be run, once: it is made
  // again before it ends. Where that fails it is not removed, and its library not closed; at the engine's end the process
  // ends with a message.
  //
  // Errors of commit: unsupported (functions to run at its end, in a library that is collected; it defines code that is no
  // function, as labels; with Switch::atomic), needs_flag (a pointer
  // to a local function may be held whose name is not the only one of its kind), invalid_argument (the library is not
  // replaceable, or the memory is the client's). While others share its COMDAT groups it can't be removed unloaded
  // (still_used).
  void unload(Module module, Recall recall) noexcept;

  // Whoever refers to the function `name` of the module, which its new version in this change lacks, or an earlier one
  // lacked, reaches `to` from then on: callers in all modules and pointers to it. Look-ups find `name` no more. `to` is a
  // function of the module's new version, of another module of the change in the same library, or of a published one that
  // the library or a library that it searches holds. Replaceable functions are followed through their versions, and can't
  // vanish without being led on; the module of any other can't be removed before this one. If a later version of the module
  // has `name` again, it is itself again.
  //
  // Errors of commit: undefined (the module has had no such function; nothing called `to` is there), invalid_argument
  // (`name` has not vanished, or is a variable; `to` vanishes or is removed by the same change; with Switch::atomic).
  void lead(Module module, std::string name, std::string to) noexcept;
  // To an address, which the client keeps valid for as long as anybody refers to the function.
  void lead(Module module, std::string name, Addr to) noexcept;

  // Chooses COMDAT groups and archive members, resolves symbols, counts GOT entries and stubs. Errors: duplicate, malformed,
  // unsupported, needs_flag, resolver, still_used, invalid_argument. What is undefined is no error yet: see
  // Draft::undefined.
  Result<Draft> draft() &&;

  Change(Change&&) noexcept;
  Change& operator=(Change&&) noexcept;
  ~Change();
  // Null: there was no memory for it, which draft() reports.
  explicit Change(std::unique_ptr<engine::ChangeState> state) noexcept;

private:
  std::unique_ptr<engine::ChangeState> state_;
  bool starved_ = false;
};

// Resolved, not placed: sizes are known.
class Draft {
public:
  // One for each module, those that came out of archives included (after those that were added). Exact for the engine's
  // memory.
  std::span<const ModuleLayout> layouts() const noexcept;
  // Everything that is missing, all at once. place() fails if there is any.
  std::span<const Missing> undefined() const noexcept;
  // Functions of replaced modules whose parameters or results have changed, by the debug information (-g) of both versions:
  // callers that are not replaced with them go on passing what the version before took. What only the module itself can
  // call is not among them. And COMDAT groups (inline functions) of replaced modules that another module provides for all, if
  // one's copy has changed since they were taken to agree and the other's has not: calls reach the provider's. `symbol` is
  // the group's name. And lambdas of inline functions, which go by the number that the compiler gives them, where that is
  // another's now. Void with the draft.
  std::span<const Warning> warnings() const noexcept;
  // What a client that places at this granularity must provide: upper bounds.
  Result<std::vector<BlockRequest>> blocks(Granularity granularity) const;
  // The object behind a module: its symbols are what edits name.
  const Object& object(ModuleId module) const noexcept;

  // Applies the edits in order and drafts again; views of the draft from before are void then. Errors: as Change::draft, and
  // invalid_argument: the module has no such global symbol, or is another once the edits are made, because other archive
  // members are needed. On an error the draft is as before.
  Result<void> edit(std::vector<Edit> edits);

  // In the engine's own memory. Errors: undefined, exhausted, system.
  Result<Placed> place() &&;
  // In the client's memory, which must outlive the modules. Errors: undefined, and the client's.
  Result<Placed> place(Memory& memory) &&;
  // At addresses of the client's, one for each of blocks(granularity), in that order: to be copied out, not to be committed
  // here.
  Result<Placed> place(Granularity granularity, std::span<const Addr> addresses) &&;

  Draft(Draft&&) noexcept;
  Draft& operator=(Draft&&) noexcept;
  ~Draft();
  explicit Draft(std::unique_ptr<engine::ChangeState> state) noexcept;

private:
  std::unique_ptr<engine::ChangeState> state_;
};

// A section at its address.
struct PlacedSection {
  SectionId id;
  std::string_view name;
  SectionKind kind = SectionKind::other;
  Addr address;
  std::uint64_t size = 0;
  std::uint64_t alignment = 1;
  bool synthetic = false;
};

// A symbol at its address.
struct PlacedSymbol {
  std::string_view name;
  Addr address;
  std::uint64_t size = 0;
  ModuleId module;
  std::uint32_t section = 0; // of its module's object; section_absolute, or synthetic ids
  Binding binding = Binding::global;
  SymbolType type = SymbolType::none;
};

// Looks at final bytes before they can run; an Error vetoes the change (code `vetoed`) and nothing is left of it.
using Inspector = std::function<Result<void>(const Linked&)>;

// Addresses are chosen.
class Placed {
public:
  std::span<const PlacedSection> sections() const noexcept;

  // Copies and relocates all bytes, then asks the inspector if there is one. Errors: out_of_range, malformed, vetoed.
  Result<Linked> link(const Inspector& inspector = {}) &&;

  Placed(Placed&&) noexcept;
  Placed& operator=(Placed&&) noexcept;
  ~Placed();
  explicit Placed(std::unique_ptr<engine::ChangeState> state) noexcept;

private:
  std::unique_ptr<engine::ChangeState> state_;
};

// A stub or GOT entry that the linker made.
struct LinkerEntry {
  enum class Kind : unsigned char { stub, got, slot, tls };
  Kind kind = Kind::got;
  std::string_view symbol;
  ModuleId module;
  Addr address;
  Addr target; // what it leads to; zero while that is known only at commit
};

// A direct branch that a relocation leads to its target: a call, a jump, a conditional jump.
struct Branch {
  SectionId section;
  std::uint64_t offset = 0; // of its displacement
  std::string_view target;  // the symbol, or the section, that the object names
  // One atomic store can lead it elsewhere while threads run it: its displacement lies inside an aligned 8-byte word. In a
  // replaceable library others go through their target's stub.
  bool retargetable = false;
};

enum class Initialize : unsigned char { run, skip };

// How the functions of replaced modules become visible.
enum class Switch : unsigned char {
  // Each slot and each call site by one atomic store, all of them within microseconds. A thread may call the new version of
  // one function and then the old one of another.
  each,
  // As a set. What a thread sees is decided once for each of its outermost entries (Border::Entry): one that began before
  // the commit sees the old versions of all replaced functions until it ends, one that begins after commit() has returned
  // the new ones, and one that begins meanwhile sees one kind or the other, of all of them. Members of the old set keep
  // calling each other. Nobody waits: while entries of before are under way, calls of the replaced functions from outside of
  // the set cost a few nanoseconds more. A call by a thread that has declared no entry is an entry of its own, as far as
  // the functions call each other directly.
  atomic,
};

// Bytes are final for these addresses; nobody can see or run them yet.
class Linked {
public:
  std::span<const PlacedSection> sections() const noexcept;
  // Symbols that the modules define, locals with names included. Errors: out_of_memory.
  Result<std::vector<PlacedSymbol>> symbols() const;
  // Errors: out_of_memory.
  Result<std::vector<LinkerEntry>> entries() const;
  // All direct branches of the linked code that have relocations. Errors: out_of_memory.
  Result<std::vector<Branch>> branches() const;
  // A section's final bytes; empty for zero-filled ones. Valid while this Linked lives.
  Bytes bytes(SectionId section) const noexcept;
  // The relocations of a section, as its object has them.
  std::span<const Relocation> relocations(SectionId section) const noexcept;
  std::string_view module_name(ModuleId module) const noexcept;
  const Object& object(ModuleId module) const noexcept;

  // Makes everything visible as a whole: removals and additions at once, frames registered before symbols can be found. Then
  // runs static initializers in this thread, with no lock held: by priority, then in the order of modules.
  // Errors that leave nothing behind: conflict, duplicate, still_used, undefined (placed at plain addresses), exhausted,
  // system. One does not: `initializer`. A static initializer threw: the modules are committed and visible, later
  // initializers of the change have not run, finalizers that were registered run when the modules are removed (see
  // Library::modules). Conflict: another change has meanwhile taken away or brought what this one was built on. If the
  // client has seen neither addresses nor bytes (sections, symbols, entries, bytes, of Placed or Linked) but through the
  // inspector, and the memory is the engine's, the change is drafted, placed and linked again instead; resolver and
  // inspector may so be asked more than once. A program that goes on changing all the time gets the error after a hundred
  // attempts.
  Result<Committed> commit(Initialize initialize = Initialize::run, Switch how = Switch::each) &&;

  // Delivers the bytes of the blocks, in the order of Draft::blocks, into buffers of at least their sizes. Any number of
  // times.
  Result<void> copy_out(std::span<const std::span<std::byte>> buffers) const;

  // Hands the code to the client: symbols stay invisible, everything it needs is kept alive by it, engine or no engine.
  // Errors: as commit; a conflict is always an error.
  Result<Code> release(Initialize initialize = Initialize::run) &&;

  Linked(Linked&&) noexcept;
  Linked& operator=(Linked&&) noexcept;
  ~Linked();
  explicit Linked(std::unique_ptr<engine::ChangeState> state) noexcept;
  const engine::ChangeState& state() const noexcept { return *state_; }

private:
  std::unique_ptr<engine::ChangeState> state_;
};

// What a commit has made. Move-only, as the stages are. While it lives, the modules that would be collected stay
// (LibraryOptions::collected), and for them their engine.
class Committed {
public:
  Module module(ModuleId id) const noexcept;
  std::span<const Module> modules() const noexcept { return modules_; }
  explicit Committed(std::vector<Module> modules, std::shared_ptr<const void> keeps = nullptr) noexcept
      : modules_(std::move(modules)), keeps_(std::move(keeps)) {}
  Committed(Committed&&) noexcept = default;
  Committed& operator=(Committed&&) noexcept = default;

private:
  std::vector<Module> modules_;
  std::shared_ptr<const void> keeps_;
};

// Code that the client owns. Counted; with the last copy its finalizers run and its memory is freed. Any thread.
class Code {
public:
  // Symbols defined by the released modules, hidden ones not.
  std::optional<Addr> find(std::string_view name) const noexcept;
  Usage usage() const noexcept;

  struct State;
  explicit Code(std::shared_ptr<const State> state) noexcept : state_(std::move(state)) {}

private:
  std::shared_ptr<const State> state_;
};

} // namespace tenon
