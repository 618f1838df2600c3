// mmap and its kin, with the calls' names and reasons in the errors.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "memory/system.h"

#include "base/fault.h"

#include <cerrno>
#include <string>
#include <system_error>

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

namespace tenon::memory::system {

namespace {

using base::fault::Call;

#ifdef MFD_EXEC
constexpr unsigned memfd_exec = MFD_EXEC;
#else
constexpr unsigned memfd_exec = 0x10; // Linux 6.3; C libraries came later
#endif

#ifdef MADV_POPULATE_WRITE
constexpr int advice_populate_read = MADV_POPULATE_READ;
constexpr int advice_populate_write = MADV_POPULATE_WRITE;
#else
constexpr int advice_populate_read = 22; // Linux 5.14
constexpr int advice_populate_write = 23;
#endif

// False: the kernel does not know the request.
Result<bool> populate(void* at, std::uint64_t size, int advice, const char* what) {
  if (base::fault::injected(Call::madvise)) return failure("madvise", what);
  while (::madvise(at, size, advice) != 0) {
    if (errno == EINTR || errno == EAGAIN) continue;
    if (errno == EINVAL || errno == ENOSYS) return false;
    return failure("madvise", what);
  }
  return true;
}

std::string locking_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return {};
  return " (RLIMIT_MEMLOCK allows the process " + std::to_string(limit.rlim_cur) +
         " bytes: raise it, or use Prefault::populate)";
}

} // namespace

Error failure(const char* call, const char* what) {
  const int reason = errno;
  return {ErrorCode::system, std::string(call) + " for " + what + ": " + std::generic_category().message(reason)};
}

Result<std::byte*> map(void* at, std::uint64_t size, int protection, int flags, int fd, std::uint64_t offset,
                       const char* what) {
  void* const begin =
      base::fault::injected(Call::mmap) ? MAP_FAILED : ::mmap(at, size, protection, flags, fd, static_cast<off_t>(offset));
  if (begin == MAP_FAILED) return failure("mmap", what);
  return static_cast<std::byte*>(begin);
}

Result<void> protect(void* at, std::uint64_t size, int protection, const char* what) {
  if (base::fault::injected(Call::mprotect) || ::mprotect(at, size, protection) != 0) return failure("mprotect", what);
  return {};
}

Result<int> memory_file(std::uint64_t size, const char* what) {
  if (base::fault::injected(Call::memfd_create)) return failure("memfd_create", what);
  int fd = ::memfd_create("tenon", MFD_CLOEXEC | memfd_exec);
  if (fd < 0 && errno == EINVAL) fd = ::memfd_create("tenon", MFD_CLOEXEC);
  if (fd < 0) return failure("memfd_create", what);
  if (base::fault::injected(Call::ftruncate) || ::ftruncate(fd, static_cast<off_t>(size)) != 0) {
    const int reason = errno;
    ::close(fd);
    errno = reason;
    return failure("ftruncate", what);
  }
  return fd;
}

Result<void> populate_for_write(void* at, std::uint64_t size, const char* what) {
  Result<bool> known = populate(at, size, advice_populate_write, what);
  return known ? Result<void>() : std::move(known).error();
}

Result<void> populate_for_read(void* at, std::uint64_t size, const char* what) {
  Result<bool> known = populate(at, size, advice_populate_read, what);
  if (!known) return std::move(known).error();
  if (*known) return {};
  for (std::uint64_t page = 0; page < size; page += page_size)
    (void)*static_cast<const volatile std::byte*>(static_cast<const std::byte*>(at) + page);
  return {};
}

Result<void> lock(void* at, std::uint64_t size, const char* what) {
  if (!base::fault::injected(Call::mlock) && ::mlock(at, size) == 0) return {};
  Error error = failure("mlock", what);
  unlock(at, size); // what it has got done before it failed
  error.message += locking_limit();
  return error;
}

void unlock(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  (void)::munlock(at, size);
  errno = kept;
}

bool discard(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  const bool done = !base::fault::injected(Call::madvise) && ::madvise(at, size, MADV_DONTNEED) == 0;
  errno = kept;
  return done;
}

bool punch(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  const bool done = !base::fault::injected(Call::madvise) && ::madvise(at, size, MADV_REMOVE) == 0;
  errno = kept;
  return done;
}

bool deny_access(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  const bool done = !base::fault::injected(Call::deny_access) && ::mprotect(at, size, PROT_NONE) == 0;
  errno = kept;
  return done;
}

bool reserve_again(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  const bool done = !base::fault::injected(Call::mmap) && ::mmap(at, size, PROT_NONE, flags, -1, 0) != MAP_FAILED;
  errno = kept;
  return done;
}

bool allow_reading(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  const bool done = !base::fault::injected(Call::mprotect) && ::mprotect(at, size, PROT_READ) == 0;
  errno = kept;
  return done;
}

void advise(void* at, std::uint64_t size, int advice) noexcept {
  const int kept = errno;
  (void)::madvise(at, size, advice);
  errno = kept;
}

void unmap(void* at, std::uint64_t size) noexcept {
  const int kept = errno;
  (void)::munmap(at, size);
  errno = kept;
}

} // namespace tenon::memory::system
