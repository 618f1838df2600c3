// A module on its way through the linker: its sections' places, what its symbols are bound to, and what the linker adds.
//
// The passes run in this order, each over flat arrays, and each relies on what those before it have established:
//
//     engine: choose COMDAT groups, bind symbols     every kept section and every symbol's Target::kind is known
//     survey   (survey.cpp, arch)                    what each Target needs: GOT entry, stub, TLS pair, thunk
//     lay out  (layout.cpp)                          every section has an offset in a run; sizes are exact
//     engine or client: addresses                    every run has an address and local bytes
//     settle   (settle.cpp)                          Target::address is final for all symbols of all modules
//     fix up   (fix_up.cpp, arch)                    bytes are copied and relocated
//
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/memory.h>
#include <tenon/object.h>

#include "base/scratch_list.h"
#include "object/object_file.h"
#include "object/producer.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tenon::link {

// What a symbol of a module is bound to.
enum class TargetKind : std::uint8_t {
  missing,   // nothing defines it
  section,   // this module's section `where`; address is the offset in it until settled
  module,    // symbol `address` of module `where` of the same change, until settled
  fixed,     // an address that was known before: the host's, another module's, an absolute symbol's
  null,      // undefined weak, or the resolver's "weak, null"
  slot,      // reached only through the slot at `address`: rebindable, or defined later
  discarded, // lies in a dropped COMDAT section
  thunk,     // a host function that must be told the module's __dso_handle: atexit and its kin
};

namespace need {
inline constexpr std::uint8_t got = 1, stub = 2, tls_pair = 4, tls_descriptor = 8, tls_offset = 16, size = 32;
}

namespace target_flag {
inline constexpr std::uint8_t tls = 1;        // address is an offset in its TLS block
inline constexpr std::uint8_t ifunc = 2;      // own IFUNC: address is that of its stub
inline constexpr std::uint8_t host = 4;       // outside of the engine
inline constexpr std::uint8_t static_tls = 8; // a host variable with a fixed offset from the thread pointer
inline constexpr std::uint8_t data = 16;      // known to be a data object
inline constexpr std::uint8_t identity = 32;  // own function that may be replaced: address is that of its permanent stub
} // namespace target_flag

// Two words: there is one for each symbol, and every stage looks at nearly all of them.
struct Target {
  std::uint64_t address = 0;
  std::uint32_t where = 0; // TargetKind::thunk: which argument register takes __dso_handle
  TargetKind kind : 3;
  std::uint32_t flags : 6;
  std::uint32_t entry : 23; // index into Module::entries, plus one; zero: none

  constexpr Target() noexcept : kind(TargetKind::missing), flags(0), entry(0) {}
};
static_assert(sizeof(Target) == 16);
inline constexpr std::uint32_t most_entries = (std::uint32_t(1) << 23) - 1;

inline constexpr std::uint32_t none = 0xFFFFFFFF;

// What the linker makes for one symbol; offsets are in the GOT, stub and slot sections.
struct Entry {
  std::uint32_t symbol = 0;
  std::uint32_t got = none;
  std::uint32_t stub = none;
  std::uint32_t tls_pair = none;
  std::uint32_t tls_descriptor = none;
  std::uint32_t tls_offset = none;
  std::uint32_t slot = none;
  std::uint32_t address_cell = none; // TargetKind::thunk: a cell that holds the stub's own address
  std::uint64_t size = 0;            // need::size: of the definition, wherever it is; set by the engine
};

// What relocations ask of a symbol: the survey's note, before there is an Entry.
struct Need {
  std::uint32_t symbol = 0;
  std::uint8_t what = 0; // need::...
};

// An instruction that is led through a thunk because its data is out of reach.
struct Thunk {
  std::uint32_t section = 0;
  std::uint32_t symbol = 0;
  std::uint64_t offset = 0; // of the relocated field
  std::int64_t addend = 0;
  std::uint32_t type = 0; // of the relocation
  std::uint32_t stub = 0; // offset in the stub section
  // Of the instruction, once its section is fixed up; length 0: its data was in reach, and the thunk is not used.
  std::uint8_t before = 0; // bytes before the field
  std::uint8_t length = 0;
  std::uint8_t load = 0; // what it does: the architecture's
};

// Unwind information for thunks that lie next to each other and whose sites have the same frame.
struct ThunkFrame {
  std::uint32_t stub = 0, size = 0; // the thunks, in .tenon.stubs
  std::uint32_t at = 0;             // offset of the description in .tenon.eh_frame
};

// The four contiguous pieces of memory that a module takes, at most.
enum class Run : std::uint8_t { code, rodata, data, slots, none };
inline constexpr std::size_t runs = 4;

struct SectionPlace {
  std::uint64_t address = 0;
  std::byte* local = nullptr; // null for zero fill that nobody writes, and before placing
  std::uint64_t offset = 0;   // in the run; in the TLS image for thread-local sections
  std::uint64_t size = 0;
  std::uint32_t section = 0;        // whose place it is
  std::uint8_t alignment_power = 0; // its alignment is two to that
  Run run = Run::none;              // none: does not take part
  SectionKind kind = SectionKind::other;
  bool kept : 1 = false;
  bool has_content : 1 = false; // not zero fill
  bool leads : 1 = false;       // the first section of a NamedRun of this module's
  bool follows : 1 = false;     // another section of a NamedRun: whose module it is places it
  bool serves_all : 1 = false;  // unwind information, TLS images, the linker's own: needed as long as any other section is
  bool unwind : 1 = false;      // call frame information
  bool overlies : 1 = false;    // thread-local zero fill: nothing of it lies at its address, other sections may

  std::uint64_t content_size() const noexcept { return has_content ? size : 0; }
  std::uint32_t alignment() const noexcept { return std::uint32_t(1) << alignment_power; }
  void set_alignment(std::uint32_t alignment) noexcept {
    alignment_power = std::uint8_t(__builtin_ctz(alignment));
  } // never 0
};
inline constexpr SectionPlace no_place;

// The linker's own sections follow the object's, in this order.
enum class Synthetic : std::uint8_t { stubs, stub_frames, got, common, dso_handle, slots, count };

inline constexpr std::size_t synthetic_sections = std::size_t(Synthetic::count);
const char* synthetic_name(Synthetic section) noexcept;
SectionKind synthetic_kind(Synthetic section) noexcept;

// Where sections lie, by section: the object's, then the linker's own. More than half of a program's take no part in it
// (tables of symbols, relocations and names, copies of COMDAT groups that were dropped): each of these is a number here, and
// what goes over those that take part goes over nothing else.
class Places {
public:
  // None of `sections`, and of the linker's own, has a place; there is room for `expected`.
  void begin(std::size_t sections, std::size_t expected) {
    list_.clear();
    index_.assign(sections + synthetic_sections, 0);
    list_.reserve(expected);
  }
  // In the order of sections.
  SectionPlace& add(std::uint32_t section) {
    SectionPlace& place = list_.emplace_back();
    place.section = section;
    index_[section] = std::uint32_t(list_.size());
    return place;
  }
  void remove_synthetic() noexcept {
    while (!list_.empty() && list_.back().section + synthetic_sections >= size()) {
      index_[list_.back().section] = 0;
      list_.pop_back();
    }
  }

  std::size_t size() const noexcept { return index_.size(); }
  const SectionPlace& operator[](std::size_t section) const noexcept {
    const std::uint32_t at = index_[section];
    return at != 0 ? list_[at - 1] : no_place;
  }
  // Of a section that has one.
  SectionPlace& at(std::size_t section) noexcept { return list_[index_[section] - 1]; }

  bool has_synthetic() const noexcept { return !list_.empty() && list_.back().section + synthetic_sections >= size(); }

  // Those that there are, in order; not all of them are kept.
  std::span<SectionPlace> list() noexcept { return list_; }
  std::span<const SectionPlace> list() const noexcept { return list_; }
  std::span<const SectionPlace> of_object() const noexcept {
    std::size_t count = list_.size();
    while (count != 0 && list_[count - 1].section + synthetic_sections >= size()) --count;
    return {list_.data(), count};
  }

private:
  base::ScratchList<std::uint32_t> index_; // into list_, plus one
  base::ScratchList<SectionPlace> list_;
};

// The sections of those places that take part.
class KeptSections {
public:
  class Iterator {
  public:
    using iterator_category = std::input_iterator_tag;
    using value_type = std::uint32_t;
    using difference_type = std::ptrdiff_t;
    using pointer = const std::uint32_t*;
    using reference = std::uint32_t;

    Iterator(const SectionPlace* at, const SectionPlace* end) noexcept : at_(at), end_(end) { skip(); }
    std::uint32_t operator*() const noexcept { return at_->section; }
    Iterator& operator++() noexcept {
      ++at_;
      skip();
      return *this;
    }
    friend bool operator==(const Iterator& a, const Iterator& b) noexcept { return a.at_ == b.at_; }

  private:
    void skip() noexcept {
      while (at_ != end_ && !at_->kept) ++at_;
    }
    const SectionPlace* at_;
    const SectionPlace* end_;
  };

  explicit KeptSections(std::span<const SectionPlace> places) noexcept : places_(places) {}
  Iterator begin() const noexcept { return {places_.data(), places_.data() + places_.size()}; }
  Iterator end() const noexcept { return {places_.data() + places_.size(), places_.data() + places_.size()}; }

private:
  std::span<const SectionPlace> places_;
};

// The sections of one name, of all modules of a change and library, that __start_ and __stop_ symbols bound. They lie next
// to each other, in the memory of the module that has the first.
struct NamedRun {
  struct Part {
    std::uint32_t module = 0, section = 0;
    std::uint64_t size = 0, offset = 0; // offset: in the run of the first
    std::uint32_t alignment = 1;
  };
  std::vector<Part> parts; // in the order of modules and sections
};

// What a __start_ or __stop_ symbol stands for; Target::where is bound_section then, Target::address the index.
inline constexpr std::uint32_t bound_section = 0xFFFFFFFE;
struct SectionBound {
  std::uint32_t module = 0, run = 0; // index into that module's named_runs
  bool stop = false;
};

// Target::where of _TLS_MODULE_BASE_: the beginning of the block that the module's key stands for, whose sections it has or
// not.
inline constexpr std::uint32_t tls_block = 0xFFFFFFFD; // and of both the larger ones are no sections

struct RunSize {
  std::uint64_t size = 0;
  std::uint64_t alignment = 16;
};

// Where the bytes that PC-relative references may be applied to can lie, and so what is surely near.
struct Reach {
  bool known = false; // false: addresses are the client's, nothing outside of a block is surely near
  std::uint64_t begin = 0, end = 0;
  std::uint64_t code_begin = 0, code_end = 0; // of that, where code can lie

  // The same for references from code, which can lie in a part of the whole only: what is near that part may be far from
  // the rest.
  Reach from_code() const noexcept { return {known, code_begin, code_end, code_begin, code_end}; }

  bool covers(std::uint64_t address) const noexcept {
    // 2^31 less the largest addends and instruction tails that may be added to a symbol.
    constexpr std::uint64_t span = (std::uint64_t(1) << 31) - (std::uint64_t(1) << 20);
    return known && distance(address, begin) < span && distance(address, end) < span;
  }

private:
  static std::uint64_t distance(std::uint64_t a, std::uint64_t b) noexcept { return a < b ? b - a : a - b; }
};

struct TlsIndex {
  std::uint64_t module = 0; // glibc's module id, or the engine's key
  std::uint64_t offset = 0;
};

// A relocation's target that only the engine can give a TLS module key for.
struct TlsBinding {
  std::uint32_t symbol = 0;
  std::uint64_t key = 0;          // of a fixed target; for section and module targets the module's own
  std::int64_t static_offset = 0; // from the thread pointer, with target_flag::static_tls
  std::string_view owner;         // whose variable it is, for messages
};

// A field of data that holds the address of a symbol which is reached through a slot: written as that of its stub.
struct SlotPointer {
  std::uint32_t section = 0;
  std::uint32_t symbol = 0;
  std::uint64_t offset = 0;
  std::int64_t addend = 0;
};

struct FrameEntry {
  std::uint64_t pc = 0, fde = 0;
};

// A function that may be replaced while threads run it: direct branches go to its body, everything else to its stub.
struct Callee {
  std::uint64_t stub = 0; // its address, for good
  std::uint64_t body = 0; // of the version that is current when the module is linked
  std::uint32_t symbol = 0;
  bool escapes = false;        // something of the module has the stub for an address
  bool through_stub = false;   // branches go through it that can't be sites
  bool wants_veneer = false;   // they go through the module's own jump to the body, which is a site
  std::uint32_t veneer = none; // where that is among the stubs
};

// Where a function of the module's own begins: relocations may name its section instead of it.
struct OwnFunction {
  std::uint32_t section = 0;
  std::uint64_t offset = 0;
  std::uint32_t callee = 0;
};

// What a symbol of the module covers in its data.
struct DataObject {
  std::uint32_t section = 0;
  std::uint64_t begin = 0, end = 0; // in the section
};

// A frame description of kept code, as the survey has found it.
struct FrameSpot {
  std::uint32_t section = 0; // the code's
  std::uint32_t unwind = 0;  // the section that the description stands in
  std::uint64_t offset = 0;  // of the function in its section
  std::uint32_t at = 0;      // of the description
};

// A direct branch to a callee whose displacement may be changed while threads run it.
struct Site {
  std::uint64_t field = 0; // address of the displacement
  std::uint32_t callee = 0;
};

// Most of its lists are empty in most modules: of 100,000 tiny ones, what a stage works with lies in memory.
struct Module {
  template <class T> using List = base::ScratchList<T>;

  Object object;
  std::string name;

  Places places;
  List<Target> targets;          // one for each symbol
  List<TlsBinding> tls_bindings; // sorted by symbol; fixed TLS targets
  List<Entry> entries;
  List<Thunk> thunks; // sorted by section, offset, symbol
  List<ThunkFrame> thunk_frames;
  List<std::byte> thunk_frame_bytes; // one description after the other, without addresses
  List<Need> needs;                  // beside `entries`: what the survey has found
  List<std::uint32_t> ifuncs;        // symbols that define one
  List<SectionBound> bounds;
  List<NamedRun> named_runs; // that begin in this module, in the order of their first sections
  List<FrameSpot> frame_spots;

  List<Callee> callees;              // replaceable functions that the module has or refers to
  List<std::uint32_t> callee_of;     // of each symbol: index into `callees` plus one, or 0; empty if there are none
  List<OwnFunction> own_functions;   // sorted by section and offset
  List<OwnFunction> parts;           // what compilers have split off; sorted likewise, `callee` is its symbol
  List<DataObject> data_objects;     // sorted by section and offset
  List<std::uint64_t> escaped_parts; // addresses of those to which something has pointers; filled when fixing up
  List<Site> sites;                  // filled when fixing up

  List<SlotPointer> slot_pointers;          // filled when fixing up
  List<std::uint32_t> rewritten;            // sections that arch::restore alone can't bring back; when fixing up
  List<FrameEntry> frames;                  // sorted by pc, filled when fixing up
  List<std::vector<std::byte>> debug_bytes; // of object section i, if kept

  std::array<RunSize, runs> run_sizes;
  std::uint64_t common_size = 0;
  std::uint64_t tls_size = 0, tls_image_size = 0;
  std::uint64_t tls_key = 0;  // set by the engine before fixing up
  std::uint64_t tls_base = 0; // where the module's variables begin in a block that the modules of a change share
  std::uint32_t common_alignment = 1;
  std::uint32_t tls_alignment = 1;
  std::uint32_t tls_ld = none;
  std::uint32_t got_size = 0, stub_size = 0, slot_size = 0;
  std::uint32_t plain_stub_size = 0; // stubs without the thunks behind them, which run in the frames of others
  std::uint32_t frame_count = 0;     // frame descriptions of kept code, stubs included
  std::uint32_t relocation_count = 0;
  std::uint32_t branches_through_stubs = 0; // to callees, which could not be sites
  bool debug_sections = false;
  bool unwinding = true;
  bool surveyed = false;
  bool wants_shared_tls = false; // local-dynamic accesses to variables of other modules of the change
  bool needs_tls_ld = false;     // one pair for local-dynamic
  bool wants_dso_handle = false;
  bool wants_got_base = false;
  bool large_model = false;
  bool patchable = true;                                // code can be written while it runs: branches may be sites
  object::Knowledge knowledge = object::Knowledge::any; // what functions may count on of each other's code

  TENON_IN_SCRATCH
  explicit Module(Object input) : object(std::move(input)) {}

  // The object's tables without a call for each look: passes go over them a hundred thousand times.
  std::span<const Section> sections() const noexcept { return object.file().sections; }
  std::span<const Symbol> symbols() const noexcept { return object.file().symbols; }
  // Of an allocated section; symbol indices are in range.
  std::span<const Relocation> relocations(std::uint32_t section) const noexcept {
    return object.file().relocations_in_place(section);
  }

  // Functions of the module may have been compiled for the code of this one of its own.
  bool may_know(const Symbol& symbol) const noexcept {
    const bool is_public = !symbol.is_local() && symbol.visibility == Visibility::normal && symbol.binding != Binding::weak;
    return knowledge == object::Knowledge::any || (knowledge == object::Knowledge::not_public && !is_public);
  }

  std::uint32_t object_sections() const noexcept { return std::uint32_t(object.file().sections.size()); }
  // The object's sections that take part, in order; then of the linker's own, too.
  KeptSections kept() const noexcept { return KeptSections(places.of_object()); }
  template <class Visit> void for_each_kept(Visit&& visit) const {
    for (const SectionPlace& place : places.list())
      if (place.kept) visit(place.section);
  }

  bool is_synthetic(std::uint32_t section) const noexcept { return section >= object_sections(); }
  std::string_view section_name(std::uint32_t section) const noexcept {
    return is_synthetic(section) ? synthetic_name(Synthetic(section - object_sections())) : sections()[section].name;
  }
  SectionKind section_kind(std::uint32_t section) const noexcept {
    return is_synthetic(section) ? synthetic_kind(Synthetic(section - object_sections())) : sections()[section].kind;
  }

  std::uint32_t synthetic_index(Synthetic section) const noexcept { return object_sections() + std::uint32_t(section); }
  const SectionPlace& place(Synthetic section) const noexcept { return places[synthetic_index(section)]; }
  // The one whose first section this is.
  const NamedRun& named_run(std::uint32_t first) const noexcept {
    return *std::lower_bound(named_runs.begin(), named_runs.end(), first,
                             [](const NamedRun& named, std::uint32_t section) { return named.parts[0].section < section; });
  }
  NamedRun& named_run(std::uint32_t first) noexcept { return const_cast<NamedRun&>(std::as_const(*this).named_run(first)); }
};

} // namespace tenon::link
