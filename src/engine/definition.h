// What outlives the versions of a replaceable module: its functions and variables, each by name, and who refers to them.
//
// A function has one permanent stub, `jmp *slot(%rip)`: its address as far as the program can tell. Direct branches do not
// go through it: each is a site, whose displacement is changed when the function is replaced. A variable keeps its storage.
//
// Owner: the module (ModuleState::definitions), through all its versions; a definition that is new with a change belongs to
// the change until that is committed. Lock: EngineState::commit_mutex for everything that changes; the slot and the sites
// are read by running threads, see retarget().
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "engine/group_content.h"
#include "engine/stub_pool.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tenon::engine {

struct ModuleState;
struct Definition;
struct Choice;

// One version of a module refers to a definition, its own ones included. Linked among the definition's uses from the commit
// of the version until its code is gone.
struct Use {
  Definition* definition = nullptr;
  ModuleState* user = nullptr; // the module, whichever version of it
  Use* previous = nullptr;
  Use* next = nullptr;
  std::span<const std::uint64_t> sites; // addresses of displacements, which stand in the version's `sites`
  std::uint64_t bound = 0;              // where the sites lead
  bool in_new_set = false;              // of a version that an atomic commit brings
  bool compiled_for = false;            // of a version that was superseded, for its own body (Definition::known_inside)
  bool frozen = false;                  // of a set that was exchanged atomically: its members go on calling each other
  bool address = false;                 // refers to it in other ways, too: by its stub or its storage
  bool through_stub = false;            // calls it by its stub, where a displacement can't be changed at once
  bool past = false;                    // of a version that was superseded: its frames may be running, its needs are over
};

enum class DefinitionKind : std::uint8_t {
  function,
  variable,
  constant,
  thread_variable, // its address is an offset
  other,           // labels, absolute numbers: what can't be told to be the same in another version
};

// Where a variable or constant lies, or lay, with the section that it was in.
struct Storage {
  std::uint64_t address = 0, size = 0;
  std::uint64_t section_address = 0, section_size = 0;
};

struct Definition {
  std::string name;
  ModuleState* module = nullptr; // whose it is
  DefinitionKind kind = DefinitionKind::function;
  bool local = false;            // not seen by other modules
  bool known_inside = false;     // a compiler may count on its code in other functions of its version (Module::may_know)
  bool ambiguous = false;        // another local one has the same name, or a compiler has numbered it: it can't be matched
  bool ends_with_switch = false; // vanished, but a switch leads to it still
  bool ends_with_calls = false;  // vanished, but old code calls it by its stub still
  bool vanished = false;         // the current version does not have it
  bool seen = false;             // scratch of an exchange
  Stub stub;                     // functions
  std::uint64_t address = 0;     // of the current body, or of the storage
  std::uint64_t own = 0;     // where slot and sites lead of themselves: the body, or a switch while a set is being exchanged
  std::uint64_t entry = 0;   // where they do lead: there, unless they follow another definition
  Choice* choice = nullptr;  // of that switch
  std::uint32_t awaited = 0; // how many switches of others lead to its stub
  ModuleState* holder = nullptr; // functions: whose Version has the current body; the module, or a fragment of it
  std::uint64_t size = 0;
  std::uint64_t content = 0; // of functions of numbered lambdas, see function_content.h; 0: not known
  std::uint32_t alignment = 1;
  std::uint64_t offset = 0;                            // in its section, of the version that made the storage
  std::uint64_t section_address = 0, section_size = 0; // of variables and constants: the storage that is theirs to keep
  // Of variables and constants: where earlier versions had them, which stays because pointers to it may be held. A later
  // version in which they are as they were then has them there again. Each place once.
  std::vector<Storage> former;
  Use* uses = nullptr;
  // Functions that were led elsewhere: by a change, because they have vanished (`led`, for as long as they are gone), or by
  // a Redirect. The first goes where its leader goes, the second where the leader would go of itself.
  bool led = false;
  Definition* leader = nullptr; // none: they were led to an address
  Definition* followers = nullptr;
  Definition* previous_follower = nullptr; // among its leader's followers
  Definition* next_follower = nullptr;
  const void* redirector = nullptr; // which Redirect has led it

  // What the program takes for its address.
  std::uint64_t identity() const noexcept { return kind == DefinitionKind::function ? stub.address() : address; }
};

// A writable variable or constant without a name that later versions may go on using.
struct Anonymous {
  std::string section;
  std::uint64_t address = 0;
  std::uint64_t size = 0;
  std::uint32_t alignment = 1;
};

// A vanished function that goes elsewhere for good: to a module that must stay for it.
struct Led {
  Definition* definition = nullptr;
  ModuleState* target = nullptr;
  std::string symbol; // of the target
};

// What a module of a replaceable library is through all its versions.
struct Replaceable {
  std::uint64_t version = 1;
  std::atomic<std::uint32_t> drafts{0};                      // changes under way that replace the module
  std::vector<std::unique_ptr<Definition>> definitions;      // those that have vanished included: their stubs may be held
  std::unordered_map<std::string_view, Definition*> by_name; // without ambiguous ones
  std::vector<OwnedBlock> kept;                              // memory of earlier versions that is still used
  std::vector<Stretch> retained; // of constants that have changed, and of what has vanished: pointers may be held
  std::vector<std::shared_ptr<ModuleState>> held; // earlier versions with functions that have vanished, but
                                                  // whose addresses were taken
  // Single functions that were replaced without the rest of the module, each with what came with it: beside the module's own
  // Version, in the order of commits.
  std::list<std::shared_ptr<ModuleState>> fragments;
  std::vector<Anonymous> literals; // of `retained`, those without names: a later version may use them again
  bool in_parts = false;           // single functions have been replaced: a variable's storage may be in any of its memory
  SharedBodies shared_bodies;      // of COMDAT groups that others provide
  std::vector<Led> led;            // each counted among its target's users
  ~Replaceable();
};

void link_use(Use& use) noexcept;
// Sites for which gone(address) holds are the use's no more. The others stay where they are listed, in order.
template <class Gone> void drop_sites(Use& use, Gone&& gone) noexcept {
  auto* first = const_cast<std::uint64_t*>(use.sites.data()); // in its version's `sites`, which is not constant
  use.sites = {first, std::remove_if(first, first + use.sites.size(), gone)};
}
void unlink_use(Use& use) noexcept;

// The function's body is at `body` from now on: its slot is stored and all sites are changed, each by one atomic store.
void retarget(memory::Space& space, Definition& definition, std::uint64_t body) noexcept;
// Slot and sites lead there, unless they follow another definition, and those of followers.
void lead_to(memory::Space& space, Definition& definition, std::uint64_t entry) noexcept;
// One version's sites. The caller holds a WriteGuard.
void bind_sites(memory::Space& space, Use& use, std::uint64_t body) noexcept;
// The function has vanished: who calls it by its address ends the program with a message, once old code is gone that may.
void lead_nowhere(memory::Space& space, Definition& definition) noexcept;
// One version's sites, if its use leads elsewhere than the definition does by now.
void catch_up(memory::Space& space, Use& use) noexcept;

// The definition goes where the leader does, now and later; `body` is where that is if it is not published yet.
void follow(memory::Space& space, Definition& definition, Definition& leader, std::uint64_t body) noexcept;
// It goes to an address, which may be out of its sites' reach.
void lead_away(memory::Space& space, Definition& definition, std::uint64_t address) noexcept;
// The switch that stood for it is over.
void leave_switch(memory::Space& space, Definition& definition) noexcept;
// A set is about to bring back one that was led: who still sees what was before goes on to its leader, by that one's stub,
// because it follows no more. The leader, or null.
Definition* go_by_leader(Definition& definition) noexcept;
// It leads where it led of itself, once somebody says lead_to() or back().
void unfollow(Definition& definition) noexcept;
// A Redirect's: to where the leader goes of itself, whose module counts as used meanwhile, and back.
void redirect(memory::Space& space, Definition& definition, Definition& leader, const void* redirector) noexcept;
void back(memory::Space& space, Definition& definition) noexcept;
// Nobody follows it any more, and it follows nobody: it ends.
void detach(Definition& definition) noexcept;

} // namespace tenon::engine
