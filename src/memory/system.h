// The system calls of the memory layer. Each asks base::fault first, so that a test can make any one of them fail, and each
// says in its Error which call it was, for what, and the system's reason.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <cstddef>
#include <cstdint>

namespace tenon::memory::system {

inline constexpr std::uint64_t page_size = 4096;
inline constexpr std::uint64_t huge_page_size = std::uint64_t(2) << 20;

// "CALL for WHAT: REASON", the reason from errno.
Error failure(const char* call, const char* what);

Result<std::byte*> map(void* at, std::uint64_t size, int protection, int flags, int fd, std::uint64_t offset,
                       const char* what);
Result<void> protect(void* at, std::uint64_t size, int protection, const char* what);
// A memfd of `size` bytes, closed on exec. The caller closes it.
Result<int> memory_file(std::uint64_t size, const char* what);
// Backs pages for writing now instead of one fault each, so that a lack of memory is an Error here and no SIGBUS later.
// A kernel that does not know the request (before 5.14) backs them at the first write.
Result<void> populate_for_write(void* at, std::uint64_t size, const char* what);
// The same for reading or running: no first access faults any more. A kernel that does not know the request has each page
// touched.
Result<void> populate_for_read(void* at, std::uint64_t size, const char* what);
// Backs the pages and keeps them in memory. The error says what RLIMIT_MEMLOCK allows; nothing is locked then.
Result<void> lock(void* at, std::uint64_t size, const char* what);
// Private memory back to the kernel: zeros from now on. False if the kernel refuses (memory locked by mlockall).
bool discard(void* at, std::uint64_t size) noexcept;
// The same of shared memory, through a writable view.
bool punch(void* at, std::uint64_t size) noexcept;
// Without the words, for those who can't fail. False if the kernel has no mapping left to split.
bool deny_access(void* at, std::uint64_t size) noexcept;

// In place of whatever is mapped there: address space without memory or access.
bool reserve_again(void* at, std::uint64_t size) noexcept;
bool allow_reading(void* at, std::uint64_t size) noexcept;

// What was locked may leave memory again, and counts no more.
void unlock(void* at, std::uint64_t size) noexcept;

// A hint: whether the kernel takes it changes nothing that the program could see.
void advise(void* at, std::uint64_t size, int advice) noexcept;
// Of whole mappings: nothing is split, so nothing can be refused.
void unmap(void* at, std::uint64_t size) noexcept;

} // namespace tenon::memory::system
