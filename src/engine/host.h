// The host process as a source of symbols: dlsym, what dlsym can't give but compiled code expects, and the host's
// thread-local variables.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <link.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace tenon::engine {

struct HostSymbol {
  std::uint64_t address = 0; // for a TLS variable, its offset in its module's block
  std::uint8_t thunk = 0;    // 2 or 4: a function that takes the caller's __dso_handle as that argument
  bool tls = false;
  std::uint64_t tls_module = 0; // glibc's
  std::int64_t tls_static_offset = 0;
  bool tls_static = false; // the offset from the thread pointer is the same in all threads
  int failure = 0;         // errno, if that could not be found out
};

// Calls `visit` for the process's shared objects, as dl_iterate_phdr does, while nobody forks: of its lock, other than of
// dlsym's, glibc (2.36) does not make a new one for a child, who would wait for ever for a thread that had it.
void for_each_shared_object(int (*visit)(dl_phdr_info* info, std::size_t size, void* data), void* data) noexcept;

// Names that must be given our own meaning whatever the process has: thread-local access, exit handlers.
std::optional<HostSymbol> special_symbol(std::string_view name) noexcept;

// What dlsym finds in `handle` (RTLD_DEFAULT: the process). `name` ends in a NUL. `tls`: the reference is to a thread-local
// one.
std::optional<HostSymbol> host_symbol(void* handle, const char* name, bool tls) noexcept;

// Functions of the compiler's support library that shared libraries do not export (__udivti3 and its kin).
std::optional<HostSymbol> compiler_helper(std::string_view name) noexcept;

// The path of the newest version, of at least one: folders are named by them, and 12 comes after 9.
const char* newest_version(std::span<char* const> paths) noexcept;

// Whether a data object of the host begins at the address, as far as its symbol tables tell. Slow: a search of the tables.
bool is_host_data(std::uint64_t address) noexcept;

// The size of what begins at the address, if the host's symbol tables tell. As slow.
std::optional<std::uint64_t> host_size(std::uint64_t address) noexcept;

} // namespace tenon::engine
