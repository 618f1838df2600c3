// Relocatable objects and archives, read from memory: bounds-checked, without copying, in words of no particular format.
//
// Today the formats are ELF64 little-endian relocatable files (System V gABI; psABI x86-64) and `ar` archives (GNU, thin).
// Reading never executes or modifies anything; input is untrusted. All views point into the bytes that the Object holds and
// live as long as any copy of that Object does. Names are as they stand in the file; messages escape them.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tenon {

using Bytes = std::span<const std::byte>;

enum class SectionKind : std::uint8_t {
  code,     // executable
  rodata,   // read-only data, tables of the exception handler included
  data,     // writable, with content
  zero,     // writable, all zero, no content in the file
  tls_data, // image of thread-local data
  tls_zero, // thread-local, all zero
  unwind,   // call frame information (.eh_frame)
  init,     // a table of initializers or finalizers (.init_array, .ctors, ...)
  debug,    // not part of the program: read only when asked for
  other,    // neither loaded nor debug: comments, tables of the file format itself, excluded sections, notes that are not
            // loaded, and .note.gnu.property, which speaks of the whole program and has no use in a module
};

// Tables that are run, in which order, when a module comes and goes. Priority as the linker counts it: low ones first (of
// .init_array.N it is N, of .ctors.N 65535 - N, as in GNU ld; finalizers run in the opposite order).
enum class InitTable : std::uint8_t { none, preinit, init, fini, ctors, dtors };

struct Section {
  std::string_view name;
  Bytes content;                // empty for zero and tls_zero; the compressed bytes if `compressed`
  std::uint64_t size = 0;       // in memory; for a compressed one, when uncompressed
  std::uint32_t alignment = 1;  // a power of two
  std::uint32_t entry_size = 0; // of a mergeable section
  SectionKind kind = SectionKind::other;
  InitTable init_table = InitTable::none;
  std::uint16_t init_priority = 65535; // 65535: no priority given
  bool writable : 1 = false;
  bool allocated : 1 = false; // takes part in the program
  bool executable : 1 = false;
  bool large : 1 = false; // SHF_X86_64_LARGE: medium or large code model data
  bool mergeable : 1 = false;
  bool strings : 1 = false;
  bool retain : 1 = false;
  bool compressed : 1 = false;
  std::int32_t group = -1;      // index into Object::groups(), or -1
  std::uint32_t link_order = 0; // SHF_LINK_ORDER: the section this one belongs to, or 0
};

enum class Binding : std::uint8_t { local, global, weak, unique };
enum class SymbolType : std::uint8_t { none, object, function, section, file, common, tls, ifunc };
enum class Visibility : std::uint8_t { normal, internal, hidden, protected_ };

// A symbol's place: the index of a section, or one of these.
inline constexpr std::uint32_t section_undefined = 0;
inline constexpr std::uint32_t section_absolute = 0xFFFFFFF1;
inline constexpr std::uint32_t section_common = 0xFFFFFFF2; // value is the alignment

struct Symbol {
  const char* name_begin = ""; // into the string table; its end is known to be terminated
  std::uint64_t value = 0;     // offset in the section (any: not checked); address if absolute; if common, the
                               // alignment, a power of two
  std::uint64_t size = 0;
  std::uint32_t section = section_undefined;
  Binding binding = Binding::local;
  SymbolType type = SymbolType::none;
  Visibility visibility = Visibility::normal;
  bool large_common = false; // SHN_X86_64_LCOMMON

  std::string_view name() const noexcept { return name_begin; }
  bool defined() const noexcept { return section != section_undefined; }
  bool is_local() const noexcept { return binding == Binding::local; }
};

// One relocation, in the numbers of its psABI: a view of the file's own record (for ELF64, Elf64_Rela). Packed, because
// members of archives begin at any even address: so no table is ever copied, and on x86-64 the loads cost the same.
#pragma pack(push, 1)
struct Relocation {
  std::uint64_t offset; // in its section
  std::uint32_t type;
  std::uint32_t symbol; // index into Object::symbols()
  std::int64_t addend;
};
#pragma pack(pop)

// A COMDAT group: its sections (those that hold relocations among them, as in the file) are kept or dropped together,
// chosen by signature. A group that is not COMDAT is always kept. No section is in two groups.
struct Group {
  std::string_view signature;
  std::span<const std::uint32_t> sections; // indices; points into the Object
  bool comdat = true;
};

enum class Machine : std::uint8_t { x86_64, aarch64, riscv64, other };

class Object {
public:
  // Reads the headers and tables, and says what is wrong with them. `copy` keeps a copy of the bytes; `borrow` keeps `owner`
  // (which may be null if the client sees to the lifetime) and never copies: `bytes` may begin at any address.
  // `name` is for messages. Errors: malformed, unsupported (another machine, class, byte order, file type), out_of_memory.
  static Result<Object> copy(Bytes bytes, std::string name);
  static Result<Object> borrow(Bytes bytes, std::shared_ptr<const void> owner, std::string name);
  // Maps the file (a pipe is read to its end). It must not be cut short while the Object lives. Errors as above, and system.
  static Result<Object> read_file(const std::string& path);

  const std::string& name() const noexcept;
  Bytes bytes() const noexcept;
  Machine machine() const noexcept;

  std::span<const Section> sections() const noexcept; // index 0 is the null section
  std::span<const Symbol> symbols() const noexcept;   // index 0 is the null symbol
  std::uint32_t first_global() const noexcept;        // all symbols before it are local; those after say so themselves
  std::span<const Group> groups() const noexcept;
  // The relocations of section `index`; every symbol index is in range; offsets are not checked yet. Those of sections that
  // are not allocated (debug sections) are looked at only here, by each call: if one names a symbol that is not there the
  // answer is empty, and check_relocations() says why.
  std::span<const Relocation> relocations(std::uint32_t index) const noexcept;
  Result<void> check_relocations(std::uint32_t index) const;

  // A copy of a section's bytes, uncompressed if need be (ELF compression: zlib, zstd; the older .zdebug too). `limit`
  // bounds what a malicious header can ask for. Errors: malformed, unsupported (beyond the limit, another method),
  // out_of_memory.
  Result<std::vector<std::byte>> uncompressed(std::uint32_t index, std::uint64_t limit = std::uint64_t(1) << 30) const;

  struct File; // the reader's
  const File& file() const noexcept { return *file_; }

private:
  explicit Object(std::shared_ptr<const File> file) : file_(std::move(file)) {}
  std::shared_ptr<const File> file_;
};

// An `ar` archive: members are read when they are asked for. Copies share one state. Any thread.
class Archive {
public:
  // Gives the bytes of a thin archive's member by the path that the archive names (relative to the archive, as it stands
  // there); the loader is called with no lock held.
  using Loader = std::function<Result<std::vector<std::byte>>(std::string_view path)>;

  static Result<Archive> borrow(Bytes bytes, std::shared_ptr<const void> owner, std::string name, Loader loader = {});
  static Result<Archive> copy(Bytes bytes, std::string name, Loader loader = {});
  // Thin members are looked for beside the archive.
  static Result<Archive> read_file(const std::string& path);
  static bool is_archive(Bytes bytes) noexcept;

  const std::string& name() const noexcept;
  std::size_t size() const noexcept; // number of members
  std::string_view member_name(std::size_t index) const noexcept;
  Result<Bytes> member_bytes(std::size_t index) const; // the raw member; lives as long as any copy of the Archive
  // The member read as an object, called "ARCHIVE(MEMBER)", which keeps the bytes alive.
  Result<Object> member(std::size_t index) const;
  // The member that defines `symbol` according to the archive's index; the first one if there are several. If the archive
  // has no index it is made by reading the members at the first call, those that are no objects left out. Errors:
  // out_of_memory (of making the index; the next call tries again).
  Result<std::optional<std::size_t>> find(std::string_view symbol) const;

  struct File;

private:
  explicit Archive(std::shared_ptr<File> file) : file_(std::move(file)) {}
  Result<std::optional<std::size_t>> find_in_made_index(std::string_view symbol) const;
  std::shared_ptr<File> file_;
};

} // namespace tenon
