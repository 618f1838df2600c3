// The anchor: a generated shared object of one page that makes the dynamic linker reserve the engine's address space.
//
// Why: glibc and libgcc find unwind information by the loaded object that a PC lies in. An object whose one PT_LOAD spans
// the whole reservation, and whose PT_GNU_EH_FRAME names a table inside it, is the only door to the unwinder that costs
// nothing per module: no registration, no lock, no search that grows. dlclose gives the whole range back, whatever was
// mapped over it since.
//
// Things that matter in the file (System V gABI, "Program Loading"; checked against glibc 2.36):
//   - p_vaddr is the place that is wanted: since 2.36 glibc passes it to mmap as a hint, so the load bias is zero there.
//   Older
//     ones map a PIE's objects anywhere, and one before 2.35 would write to PT_DYNAMIC: such a glibc is not served.
//   - PF_R only: private and never writable, so 2 GiB of it charge nothing against the commit limit.
//   - PT_GNU_STACK without PF_X: an object without that header makes glibc turn every stack of the process executable.
//   - PT_DYNAMIC without PF_W: glibc then adds the bias itself instead of relocating the entries in place. String, symbol
//   and
//     hash table are there because the dynamic linker and dladdr read them unasked; there is one symbol, the null one.
//   - no DT_SONAME: all anchors would share it, and a second dlopen is answered by name.
// The descriptor stays open as long as the anchor lives: the object's name is its /proc/self/fd path, and glibc would answer
// the dlopen of a new file under a reused number with the old object.
//
// Cost of reserve_anchor and release together: 30 us in a small program, and as much again for memory::find_place unless
// an earlier engine has left its place.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "base/fault.h"
#include "notify/frame_table.h"
#include "notify/frames.h"

#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include <dlfcn.h>
#include <elf.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace tenon::notify {

namespace {

using base::fault::Call;

#if defined(__x86_64__)
constexpr Elf64_Half native_machine = EM_X86_64;
#elif defined(__aarch64__)
constexpr Elf64_Half native_machine = EM_AARCH64;
#elif defined(__riscv) && __riscv_xlen == 64
constexpr Elf64_Half native_machine = EM_RISCV;
#else
#error "the anchor's machine is not known"
#endif

constexpr std::uint64_t low_end = std::uint64_t(1) << 31;

// The whole file but the zeros that fill its page. Offsets in the file are offsets from the reservation's begin.
struct AnchorFile {
  Elf64_Ehdr header;
  Elf64_Phdr load, dynamic, eh_frame, stack;
  Elf64_Dyn entries[6];
  Elf64_Sym null_symbol;
  Elf64_Word hash[4]; // one bucket, one chain, both empty
  char strings[8];
};

AnchorFile anchor_file(std::uint64_t place, std::uint64_t size, std::uint64_t page, const memory::AreaBounds& frames) {
  AnchorFile file{};
  std::memcpy(file.header.e_ident, ELFMAG, SELFMAG);
  file.header.e_ident[EI_CLASS] = ELFCLASS64;
  file.header.e_ident[EI_DATA] = ELFDATA2LSB;
  file.header.e_ident[EI_VERSION] = EV_CURRENT;
  file.header.e_type = ET_DYN;
  file.header.e_machine = native_machine;
  file.header.e_version = EV_CURRENT;
  file.header.e_phoff = offsetof(AnchorFile, load);
  file.header.e_ehsize = sizeof(Elf64_Ehdr);
  file.header.e_phentsize = sizeof(Elf64_Phdr);
  file.header.e_phnum = 4;

  const auto segment = [place](Elf64_Word type, std::uint64_t offset, std::uint64_t in_file, std::uint64_t in_memory,
                               std::uint64_t alignment) {
    Elf64_Phdr header{};
    header.p_type = type;
    header.p_flags = PF_R;
    header.p_offset = offset;
    header.p_vaddr = header.p_paddr = place + offset;
    header.p_filesz = in_file;
    header.p_memsz = in_memory;
    header.p_align = alignment;
    return header;
  };
  const std::uint64_t table = frames.begin + header_offset;
  file.load = segment(PT_LOAD, 0, page, size, page);
  file.dynamic = segment(PT_DYNAMIC, offsetof(AnchorFile, entries), sizeof file.entries, sizeof file.entries, 8);
  file.eh_frame = segment(PT_GNU_EH_FRAME, table, 0, frames.end - table, 4);
  file.stack.p_type = PT_GNU_STACK;
  file.stack.p_flags = PF_R | PF_W;
  file.stack.p_align = 16;

  const auto entry = [](Elf64_Sxword tag, std::uint64_t value) {
    Elf64_Dyn dynamic{};
    dynamic.d_tag = tag;
    dynamic.d_un.d_val = value;
    return dynamic;
  };
  file.entries[0] = entry(DT_HASH, place + offsetof(AnchorFile, hash));
  file.entries[1] = entry(DT_STRTAB, place + offsetof(AnchorFile, strings));
  file.entries[2] = entry(DT_SYMTAB, place + offsetof(AnchorFile, null_symbol));
  file.entries[3] = entry(DT_STRSZ, sizeof file.strings);
  file.entries[4] = entry(DT_SYMENT, sizeof(Elf64_Sym));
  file.entries[5] = entry(DT_NULL, 0);
  file.hash[0] = file.hash[1] = 1;
  return file;
}

Error system_error(const char* call, int reason) {
  return {ErrorCode::system,
          "reserving address space: " + std::string(call) + ": " + std::generic_category().message(reason)};
}

// What a live range holds. Closes what it has on every way out.
struct Anchor {
  int descriptor = -1;
  void* handle = nullptr;

  Anchor() = default;
  Anchor(const Anchor&) = delete;
  Anchor& operator=(const Anchor&) = delete;
  ~Anchor() { end(); }

  // False: the dynamic linker keeps the object. It also keeps its name, so the number must not be used again.
  bool end() noexcept {
    void* const loaded = std::exchange(handle, nullptr);
    const int open = std::exchange(descriptor, -1);
    if (loaded != nullptr && dlclose(loaded) != 0) return false;
    if (open >= 0) close(open);
    return true;
  }
};

Result<void> write_file(Anchor& anchor, const AnchorFile& file, std::uint64_t page) {
  anchor.descriptor = base::fault::injected(Call::memfd_create) ? -1 : memfd_create("tenon-anchor", MFD_CLOEXEC);
  if (anchor.descriptor < 0) return system_error("memfd_create", errno);
  if (base::fault::injected(Call::ftruncate) || ftruncate(anchor.descriptor, static_cast<off_t>(page)) != 0)
    return system_error("ftruncate", errno);
  ssize_t written = 0;
  do {
    written = base::fault::injected(Call::pwrite) ? -1 : pwrite(anchor.descriptor, &file, sizeof file, 0);
  } while (written < 0 && errno == EINTR);
  if (written < 0) return system_error("pwrite", errno);
  if (written != static_cast<ssize_t>(sizeof file)) return system_error("pwrite", ENOSPC);
  return {};
}

// Where the object begins in memory.
Result<std::byte*> load(Anchor& anchor, std::uint64_t place) {
  const std::string path = "/proc/self/fd/" + std::to_string(anchor.descriptor);
  if (base::fault::injected(Call::dlopen)) return system_error("dlopen", errno);
  anchor.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (anchor.handle == nullptr) {
    const char* text = dlerror();
    return Error{ErrorCode::system, "reserving address space: dlopen: " + std::string(text != nullptr ? text : path)};
  }
  link_map* map = nullptr;
  if (base::fault::injected(Call::dlinfo)) return system_error("dlinfo", errno);
  if (dlinfo(anchor.handle, RTLD_DI_LINKMAP, &map) != 0) {
    const char* text = dlerror();
    return Error{ErrorCode::system, "reserving address space: dlinfo: " + std::string(text != nullptr ? text : path)};
  }
  return Addr{map->l_addr + place}.as<std::byte*>();
}

void release_anchor(void* owner, std::byte* begin, std::size_t size) noexcept {
  auto* anchor = static_cast<Anchor*>(owner);
  const bool gone = anchor->end();
  delete anchor;
  if (gone) memory::give_back_place(Addr::of(begin), size);
}

} // namespace

namespace {

// `must`: nowhere else will do. Errors: exhausted, if the place was taken meanwhile and that matters.
Result<memory::AddressRange> reserve_exactly(const memory::SpaceOptions& options, Addr place, bool must = false) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  static_assert(sizeof(AnchorFile) <= 4096);
  const std::uint64_t size = base::align_up(options.size, page);
  auto anchor = std::make_unique<Anchor>();
  const auto frames = memory::area_layout(size, page)[std::size_t(memory::AreaKind::frames)];
  if (auto written = write_file(*anchor, anchor_file(place.value, size, page, frames), page); !written)
    return std::move(written).error();
  auto loaded = load(*anchor, place.value);
  if (!loaded) return std::move(loaded).error();
  if (must && Addr::of(*loaded) != place)
    return Error{ErrorCode::exhausted, "reserving address space: the place of an earlier engine was taken meanwhile"};
  // Another thread may have taken the place meanwhile; elsewhere will do unless the low addresses were asked for.
  if (options.low_2gib && Addr::of(*loaded).value + size > low_end)
    return Error{ErrorCode::exhausted, "reserving address space: the place found in the low 2 GiB was taken meanwhile"};

  memory::AddressRange range;
  range.begin = *loaded;
  range.size = size;
  range.release = release_anchor;
  range.owner = anchor.release();
  range.reserved_prefix = page;
  return range;
}

} // namespace

Result<memory::AddressRange> reserve_anchor(const memory::SpaceOptions& options) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  if (options.size <= page || options.size > low_end)
    return Error{ErrorCode::invalid_argument,
                 "reserving address space: " + std::to_string(options.size) + " bytes are not between a page and 2 GiB"};
  if (!options.low_2gib) {
    if (const Addr place = memory::take_given_back(base::align_up(options.size, page))) {
      Result<memory::AddressRange> range = reserve_exactly(options, place, true);
      if (range || range.error().code != ErrorCode::exhausted) return range;
    }
    return reserve_exactly(options, memory::find_place(options));
  }
  // The low 2 GiB are shared with the program and its heap: what fits is taken.
  constexpr std::uint64_t smallest_low = std::uint64_t(64) << 20;
  for (std::uint64_t size = options.size; size >= smallest_low || size == options.size; size = std::bit_floor(size - 1))
    if (const memory::SpaceOptions smaller{size, true, options.mapping}; const Addr place = memory::find_place(smaller))
      return reserve_exactly(smaller, place);
  return Error{ErrorCode::exhausted, "reserving address space: no room in the low 2 GiB"};
}

} // namespace tenon::notify
