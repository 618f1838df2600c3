// Looking into the host process.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/host.h"

#include "base/fault.h"
#include "engine/compiler_helpers.h"
#include "engine/exit_handlers.h"
#include "engine/tls.h"
#include "memory/fork.h"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace tenon::engine {

namespace {

// Which loaded object's TLS block of this thread holds an address.
struct TlsSearch {
  std::uint64_t address;
  std::uint64_t module = 0, offset = 0;
};

int search_tls(dl_phdr_info* info, std::size_t, void* data) {
  auto* search = static_cast<TlsSearch*>(data);
  auto block = reinterpret_cast<std::uint64_t>(info->dlpi_tls_data);
  if (block == 0) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr) & header = info->dlpi_phdr[i];
    if (header.p_type != PT_TLS || search->address < block || search->address - block >= header.p_memsz) continue;
    search->module = info->dlpi_tls_modid;
    search->offset = search->address - block;
    return 1;
  }
  return 0;
}

std::uint64_t thread_pointer() noexcept {
  std::uint64_t value;
  asm("movq %%fs:0, %0" : "=r"(value));
  return value;
}

// A variable in static TLS lies at one distance from the thread pointer in every thread; one that is allocated on first use
// lies anywhere. The C library does not say which a module has, so a second thread is asked.
struct OtherThread {
  void* handle;
  const char* name;
  std::int64_t offset = 0;
};

void* measure(void* data) {
  auto* other = static_cast<OtherThread*>(data);
  other->offset = std::int64_t(reinterpret_cast<std::uint64_t>(dlsym(other->handle, other->name)) - thread_pointer());
  return nullptr;
}

void measure_in_other_thread(void* handle, const char* name, HostSymbol& symbol) noexcept {
  OtherThread other{handle, name};
  pthread_t thread;
  symbol.failure =
      base::fault::injected(base::fault::Call::pthread_create) ? errno : pthread_create(&thread, nullptr, measure, &other);
  if (symbol.failure != 0) return;
  pthread_join(thread, nullptr);
  symbol.tls_static = other.offset == symbol.tls_static_offset;
}

} // namespace

void for_each_shared_object(int (*visit)(dl_phdr_info* info, std::size_t size, void* data), void* data) noexcept {
  const memory::fork::Inside inside;
  dl_iterate_phdr(visit, data);
}

std::optional<HostSymbol> special_symbol(std::string_view name) noexcept {
  if (name == "__tls_get_addr") return HostSymbol{tls_get_addr_entry()};
  if (const ExitFunction* function = exit_function(name)) {
    HostSymbol symbol{function->address};
    symbol.thunk = function->thunk;
    return symbol;
  }
  return std::nullopt;
}

std::optional<HostSymbol> host_symbol(void* handle, const char* name, bool tls) noexcept {
  void* found = dlsym(handle, name);
  if (found == nullptr) return std::nullopt;
  HostSymbol symbol{reinterpret_cast<std::uint64_t>(found)};
  if (!tls) return symbol;
  TlsSearch search{symbol.address};
  for_each_shared_object(search_tls, &search);
  if (search.module == 0) return std::nullopt;
  symbol.tls = true;
  symbol.tls_module = search.module;
  symbol.tls_static_offset = std::int64_t(symbol.address - thread_pointer());
  measure_in_other_thread(handle, name, symbol);
  symbol.address = search.offset;
  return symbol;
}

std::optional<HostSymbol> compiler_helper(std::string_view name) noexcept {
  std::uint64_t address = compiler_helper_address(name);
  return address != 0 ? std::optional(HostSymbol{address}) : std::nullopt;
}

namespace {

const ElfW(Sym) * symbol_at(std::uint64_t address) noexcept {
  Dl_info info;
  const ElfW(Sym)* symbol = nullptr;
  if (dladdr1(reinterpret_cast<void*>(address), &info, const_cast<void**>(reinterpret_cast<const void**>(&symbol)),
              RTLD_DL_SYMENT) == 0)
    return nullptr;
  return reinterpret_cast<std::uint64_t>(info.dli_saddr) == address ? symbol : nullptr;
}

} // namespace

const char* newest_version(std::span<char* const> paths) noexcept {
  return *std::max_element(paths.begin(), paths.end(), [](const char* a, const char* b) { return strverscmp(a, b) < 0; });
}

bool is_host_data(std::uint64_t address) noexcept {
  const ElfW(Sym)* symbol = symbol_at(address);
  return symbol != nullptr && ELF64_ST_TYPE(symbol->st_info) == STT_OBJECT;
}

std::optional<std::uint64_t> host_size(std::uint64_t address) noexcept {
  const ElfW(Sym)* symbol = symbol_at(address);
  return symbol != nullptr && symbol->st_size != 0 ? std::optional<std::uint64_t>(symbol->st_size) : std::nullopt;
}

} // namespace tenon::engine
