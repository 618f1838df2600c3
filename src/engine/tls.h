// Thread-local storage of modules: one block for each thread and module, made when a thread first touches it.
//
// The C library knows nothing of these blocks. Code reaches them through general-dynamic, local-dynamic and descriptor
// sequences, which the linker binds to the two entry points here instead of to __tls_get_addr. A TlsIndex whose module
// number has its top bit set is ours; others are the C library's and are handed to it (variables of the host).
//
// Owner: process-wide registry of threads and keys, in tls.cpp, under one mutex that only the slow path takes.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/result.h>

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tenon::engine {

struct TlsImage {
  const std::byte* content = nullptr; // initial content, valid while the key lives
  std::uint64_t content_size = 0;
  std::uint64_t size = 0;
  std::uint64_t alignment = 1;
};

// A key; frees the blocks of all threads when it goes. No thread may use the module's variables then.
class TlsKey {
public:
  TlsKey() = default;
  explicit TlsKey(const TlsImage& image); // may throw std::bad_alloc
  ~TlsKey();
  TlsKey(TlsKey&& other) noexcept : value_(std::exchange(other.value_, 0)) {}
  TlsKey& operator=(TlsKey&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  // The module number in a TlsIndex; 0: no key.
  std::uint64_t value() const noexcept { return value_; }

private:
  std::uint64_t value_ = 0;
};

// The block that a module, or the modules of a change together, has for each thread.
struct TlsBlock {
  std::vector<std::byte> image; // if the initial content lies in no module's memory
  TlsKey key;                   // goes first
};

// What has to be there before the first key is made; once per process, an error is tried again. Errors: system (no
// thread-specific key of the C library is left).
Result<void> ready_tls();

std::uint64_t tls_get_addr_entry() noexcept;
std::uint64_t tls_descriptor_entry() noexcept;

// Makes the calling thread's block now, and not at the first access. The key must live. False: out of memory.
bool touch_tls(const TlsKey& key) noexcept;

// Around fork: nobody is inside the registry while memory is copied.
void lock_tls() noexcept;
void unlock_tls() noexcept;
// In the child, with the registry locked: the blocks of threads that it does not have are freed.
void forget_other_threads_tls() noexcept;

} // namespace tenon::engine
