// Counting allocations and failing them, pictures of an engine, modules with one of everything.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "transaction_support.h"

#include "base/pool.h"
#include "engine/engine_state.h"

#include <dirent.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <mutex>
#include <new>

namespace {

std::atomic<long> live{0};
thread_local long countdown = 0;
thread_local bool all_after = false;
thread_local bool failed = false;

bool is_to_fail() noexcept {
  if (countdown == 0 || --countdown != 0) return false;
  failed = true;
  countdown = all_after ? 1 : 0;
  return true;
}

[[maybe_unused]] void* allocate(std::size_t size, std::size_t alignment) noexcept {
  if (is_to_fail()) return nullptr;
  void* made = alignment <= alignof(std::max_align_t)
                   ? std::malloc(size != 0 ? size : 1)
                   : std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  if (made != nullptr) live.fetch_add(1, std::memory_order_relaxed);
  return made;
}

[[maybe_unused]] void* allocate_or_throw(std::size_t size, std::size_t alignment) {
  void* made = allocate(size, alignment);
  if (made == nullptr) throw std::bad_alloc();
  return made;
}

[[maybe_unused]] void deallocate(void* pointer) noexcept {
  if (pointer != nullptr) live.fetch_sub(1, std::memory_order_relaxed);
  std::free(pointer);
}

[[maybe_unused]] constexpr std::size_t plain = alignof(std::max_align_t);

} // namespace

#ifdef TENON_COUNT_ALLOCATIONS

void* operator new(std::size_t size) { return allocate_or_throw(size, plain); }
void* operator new[](std::size_t size) { return allocate_or_throw(size, plain); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size, plain); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size, plain); }
void* operator new(std::size_t size, std::align_val_t alignment) { return allocate_or_throw(size, std::size_t(alignment)); }
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return allocate_or_throw(size, std::size_t(alignment));
}
void operator delete(void* pointer) noexcept { deallocate(pointer); }
void operator delete[](void* pointer) noexcept { deallocate(pointer); }
void operator delete(void* pointer, std::size_t) noexcept { deallocate(pointer); }
void operator delete[](void* pointer, std::size_t) noexcept { deallocate(pointer); }
void operator delete(void* pointer, const std::nothrow_t&) noexcept { deallocate(pointer); }
void operator delete[](void* pointer, const std::nothrow_t&) noexcept { deallocate(pointer); }
void operator delete(void* pointer, std::align_val_t) noexcept { deallocate(pointer); }
void operator delete[](void* pointer, std::align_val_t) noexcept { deallocate(pointer); }
void operator delete(void* pointer, std::size_t, std::align_val_t) noexcept { deallocate(pointer); }
void operator delete[](void* pointer, std::size_t, std::align_val_t) noexcept { deallocate(pointer); }

// Pieces of the pool count like any other allocation.
namespace {
[[maybe_unused]] const bool watching = [] {
  tenon::base::pool::watch = [](bool made) noexcept {
    if (made && is_to_fail()) return false;
    live.fetch_add(made ? 1 : -1, std::memory_order_relaxed);
    return true;
  };
  return true;
}();
} // namespace

#endif

// libgcc_s; found or not, it is what a throw through that PC would find.
extern "C" const void* _Unwind_Find_FDE(void* pc, void* bases);

// In a buffer of fixed size: modules call it while allocations fail.
namespace {
std::mutex notes_mutex;
char notes[1 << 16];
std::size_t notes_size = 0;
} // namespace

extern "C" __attribute__((visibility("default"))) void tenon_test_note(const char* word) {
  std::lock_guard lock(notes_mutex);
  std::size_t size = std::strlen(word);
  if (notes_size + size + 1 > sizeof notes) return;
  if (notes_size != 0) notes[notes_size++] = ' ';
  std::memcpy(notes + notes_size, word, size);
  notes_size += size;
}

namespace tenon::test {

long live_allocations() noexcept { return live.load(std::memory_order_relaxed); }
void fail_allocation(long n, bool lasting) noexcept {
  countdown = n;
  all_after = lasting;
  if (n != 0) failed = false;
}
bool allocation_failed() noexcept { return failed; }

std::string take_notes() {
  std::lock_guard lock(notes_mutex);
  std::string taken(notes, notes_size);
  notes_size = 0;
  return taken;
}

namespace {

// From here on the C library's memory is [heap] alone. A sanitizer's is not the C library's, and can't be told.
void keep_malloc_in_the_heap() {
#ifndef TENON_SANITIZED
  static const bool told = mallopt(M_MMAP_MAX, 0) == 1 && mallopt(M_ARENA_MAX, 1) == 1;
  if (!told) throw std::runtime_error("mallopt");
#endif
}

struct KernelMapping {
  std::uint64_t begin = 0, end = 0;
  std::string line; // without offset, device and inode
  bool named = false;
  bool in(const memory::Space& space) const { return begin < space.end().value && end > space.begin().value; }
};

std::vector<KernelMapping> read_mappings() {
  keep_malloc_in_the_heap();
  std::vector<KernelMapping> mappings;
  std::ifstream file("/proc/self/maps");
  for (std::string line; std::getline(file, line);) {
    if (line.ends_with("[heap]") || line.ends_with("[stack]")) continue;
    KernelMapping mapping;
    char* rest = nullptr;
    mapping.begin = std::strtoull(line.c_str(), &rest, 16);
    mapping.end = std::strtoull(rest + 1, &rest, 16);
    std::size_t name = line.find_first_of("/[");
    mapping.named = name != std::string::npos;
    mapping.line = line.substr(0, std::size_t(rest - line.c_str()) + 5) + (mapping.named ? " " + line.substr(name) : "");
    mappings.push_back(std::move(mapping));
  }
  return mappings;
}

// ThreadSanitizer's runtime gives its own mappings names.
#ifdef TENON_THREAD_SANITIZER
constexpr bool names_count = false;
#else
constexpr bool names_count = true;
#endif
#ifdef TENON_SANITIZED
constexpr bool all_count = false;
#else
constexpr bool all_count = true;
#endif

std::size_t count_framed(const Engine& engine) {
  if (!engine.state()->machinery->frames) return 0;
  const memory::Space& space = *engine.state()->machinery->space;
  std::uint64_t begin = space.area_begin(memory::AreaKind::code).value;
  std::uint64_t bytes = std::min<std::uint64_t>(space.usage(memory::AreaKind::code).committed, 1 << 21);
  std::size_t count = 0;
  for (std::uint64_t pc = begin; pc < begin + bytes; pc += 16) {
    void* bases[3] = {};
    count += _Unwind_Find_FDE(reinterpret_cast<void*>(pc + 1), bases) != nullptr ? 1 : 0;
  }
  return count;
}

} // namespace

std::vector<std::string> kernel_mappings(const Engine* engine) {
  std::vector<std::string> lines;
  for (KernelMapping& mapping : read_mappings())
    if (all_count || (names_count && mapping.named) || (engine != nullptr && mapping.in(*engine->state()->machinery->space)))
      lines.push_back(std::move(mapping.line));
  return lines;
}

std::size_t open_descriptors() {
  DIR* folder = opendir("/proc/self/fd");
  std::size_t count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count;
}

Snapshot snapshot(const Engine& engine, const std::vector<Library>& libraries, Frames frames) {
  Snapshot taken;
  for (const Library& library : libraries) {
    for (const std::string& name : rich_names())
      if (std::optional<Addr> address = library.find(name))
        taken.symbols.push_back(library.name() + ":" + name + "=" + std::to_string(address->value));
    for (const Module& module : expect(library.modules())) taken.modules.push_back(library.name() + ":" + module.name());
  }
  EngineUsage usage = engine.usage();
  taken.live = usage.live;
  taken.module_count = usage.modules;
  taken.symbol_count = usage.symbols;
  taken.committed = usage.committed;
  taken.bookkeeping = usage.bookkeeping;
  for (const KernelMapping& mapping : read_mappings())
    taken.mappings += (names_count && mapping.named) || mapping.in(*engine.state()->machinery->space) ? 1 : 0;
  taken.ranges = kernel_mappings(&engine);
  taken.descriptors = open_descriptors();
  if (frames == Frames::count) taken.framed = count_framed(engine);
  return taken;
}

Snapshot Snapshot::without_growth() const {
  Snapshot rest = *this;
  rest.committed = rest.bookkeeping = 0;
  rest.ranges.clear();
  return rest;
}

std::ostream& operator<<(std::ostream& out, const Snapshot& s) {
  out << "live " << s.live << ", modules " << s.module_count << ", symbols " << s.symbol_count << ", mappings " << s.mappings
      << ", descriptors " << s.descriptors << ", framed " << s.framed << ", committed " << s.committed << ", bookkeeping "
      << s.bookkeeping << "; symbols:";
  for (const std::string& symbol : s.symbols) out << ' ' << symbol;
  out << "; modules:";
  for (const std::string& module : s.modules) out << ' ' << module;
  for (const std::string& range : s.ranges) out << '\n' << range;
  return out;
}

std::vector<Object> rich_objects() {
  static const char first[] = R"(
    extern "C" int atexit(void (*)());
    extern "C" void tenon_test_note(const char*);
    extern "C" int other_side(int);
    extern "C" int later_function(int);
    extern "C" __attribute__((weak)) int nobody_has_this(int);
    extern "C" int rich_common;
    inline int rich_inline(int x) { static int calls; return x + 0 * ++calls; }
    template <class T> struct Box { static T value; };
    template <class T> T Box<T>::value = 5;
    thread_local int rich_tls = 7;
    thread_local int rich_tls_zero;
    extern "C" int rich_use_later(int x) { return later_function(x); }
    extern "C" int rich_back(int x) { return rich_inline(x) + 1; }
    static int chosen() { return 3; }
    extern "C" int (*rich_choose())() { return &chosen; }
    extern "C" __attribute__((ifunc("rich_choose"))) int rich_ifunc();
    struct Life { Life() { tenon_test_note("born"); } ~Life() { tenon_test_note("died"); } };
    static Life life;
    static void left() { tenon_test_note("atexit"); }
    __attribute__((constructor(200))) static void early() { tenon_test_note("early"); atexit(left); }
    __attribute__((destructor(200))) static void late() { tenon_test_note("late"); }
    extern "C" int rich_entry(int x) {
      int caught = 0;
      try { if (x >= 0) throw x; } catch (int y) { caught = y; }
      rich_tls_zero = rich_tls;
      if (nobody_has_this) return -1;
      return caught + other_side(x) + rich_ifunc() + Box<int>::value + rich_tls_zero + rich_common;
    })";
  static const char second[] = R"(
    extern int rich_common_user(void);
    int rich_common;
    int rich_back(int);
    int other_side(int x) { return rich_back(x) * 2; }
    int *rich_common_address(void) { return &rich_common; })";
  static const char third[] = R"(
    inline int rich_inline(int x) { static int calls; return x + 0 * ++calls; }
    extern "C" int rich_third(int x) { return rich_inline(x); })";
  static const std::vector<Object> objects{compile_cpp(first, "-O1 -fPIC", "rich1.o"),
                                           compile_c(second, "-O1 -fPIC -fcommon", "rich2.o"),
                                           compile_cpp(third, "-O0 -fPIC", "rich3.o")};
  return objects;
}

ModuleOptions rich_options() {
  ModuleOptions options;
  options.forward = {"later_function"};
  return options;
}

const std::vector<std::string>& rich_names() {
  static const std::vector<std::string> names{"rich_entry",
                                              "rich_use_later",
                                              "rich_back",
                                              "rich_choose",
                                              "rich_ifunc",
                                              "rich_common",
                                              "other_side",
                                              "rich_common_address",
                                              "_Z11rich_inlinei",
                                              "rich_third",
                                              "_ZN3BoxIiE5valueE",
                                              "later_function",
                                              "_ZZ11rich_inlineiE5calls"};
  return names;
}

Object later_object() {
  static const Object object = compile_c("int later_function(int x) { return x + 1000; }", "-O1 -fPIC", "later.o");
  return object;
}

Object big_object() {
  static const Object object = assemble(R"(
      .text
      .globl big_code
    big_code:
      .cfi_startproc
      mov tenon_test_host_variable@gottpoff(%rip), %rax
      mov $42, %eax
      ret
      .cfi_endproc
      .rept 9000
      .cfi_startproc
      nop
      ret
      .cfi_endproc
      .endr
      .fill 3000000, 1, 0x90
      .section .rodata
      .fill 600000, 1, 1
      .data
      .fill 400000, 1, 2
      .bss
      .zero 300000
    )",
                                        "big.o");
  return object;
}

const char* name_of(Kind kind) {
  switch (kind) {
  case Kind::dual: return "Dual";
  case Kind::single: return "Single";
  case Kind::low: break;
  }
  return "Low";
}

Options small_options(Kind kind) {
  Options options;
  options.reservation_bytes = std::uint64_t(1) << 28;
  options.mapping = kind == Kind::single ? Mapping::single : Mapping::dual;
  options.low_2gib = kind == Kind::low;
  return options;
}

Engine make_small_engine(Kind kind) { return make_engine(small_options(kind)); }

Arena::Arena(const Engine& engine, Granularity granularity, std::size_t bytes) : granularity_(granularity), size_(bytes) {
  const memory::Space& space = *engine.state()->machinery->space;
  void* mapped = MAP_FAILED;
  for (std::uint64_t away = 1; away < 64 && mapped == MAP_FAILED; ++away)
    for (std::uint64_t at : {space.begin().value - (away << 24), space.end().value + (away << 24)})
      if (mapped == MAP_FAILED)
        mapped = mmap(reinterpret_cast<void*>(at), size_, PROT_READ | PROT_WRITE | PROT_EXEC,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  if (mapped == MAP_FAILED) throw std::runtime_error("no memory for an arena");
  begin_ = static_cast<std::byte*>(mapped);
}

Arena::~Arena() { munmap(begin_, size_); }

Result<void> Arena::place(std::span<const BlockRequest> requests, std::span<Placement> placements) {
  if (refuse_place) return Error{ErrorCode::exhausted, "full"};
  if (outstanding == 0) used_ = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    used_ = (used_ + requests[i].alignment - 1) / requests[i].alignment * requests[i].alignment;
    if (used_ + requests[i].size > size_) return Error{ErrorCode::exhausted, "full"};
    std::memset(begin_ + used_, 0, requests[i].size);
    placements[i] = {Addr::of(begin_ + used_), begin_ + used_};
    used_ += requests[i].size;
  }
  outstanding += int(requests.size());
  placed += int(requests.size());
  return {};
}

Result<void> Arena::publish(std::span<const Placement> placements) {
  if (refuse_publish) return Error{ErrorCode::system, "mprotect"};
  published += int(placements.size());
  return {};
}

void Arena::release(const Placement&) noexcept { --outstanding; }

} // namespace tenon::test
