// The registry of thread-local blocks, and the entry point of general-dynamic and local-dynamic accesses.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/tls.h"

#include "base/align.h"
#include "base/check.h"
#include "base/fault.h"
#include "link/module.h"

#include <cpuid.h>
#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <system_error>
#include <vector>

namespace tenon::engine {

namespace {
constexpr std::uint64_t own_bit = std::uint64_t(1) << 63;
}

// Read by tls_descriptor.S: first the blocks, then how many there are.
struct ThreadBlocks {
  std::byte** blocks = nullptr;
  std::uint64_t count = 0;
};

extern "C" {
// Initial-exec: the descriptor's fast path may not call anything to find it.
__attribute__((tls_model("initial-exec"), visibility("hidden"))) thread_local constinit ThreadBlocks tenon_tls_blocks;
__attribute__((visibility("hidden"))) std::uint64_t tenon_xsave_bytes = 0; // 0: only fxsave is there
void* __tls_get_addr(link::TlsIndex* index);
void tenon_tls_descriptor();
void* tenon_tls_get_addr(link::TlsIndex* index) noexcept;
}

namespace {

struct Registry {
  std::mutex mutex;
  std::vector<TlsImage> images;       // by index; size 0 is free
  std::vector<std::uint32_t> free;    // indices
  std::vector<ThreadBlocks*> threads; // those that have blocks
  pthread_key_t at_thread_end{};
  bool ready = false; // the key is there
};

Registry& registry() {
  // Never destroyed: threads may end after static destructors have run.
  static auto* instance = new Registry;
  return *instance;
}

// Runs after the thread's thread_local destructors (glibc calls those before the destructors of thread-specific data).
void forget_thread(void* pointer) noexcept {
  auto* blocks = static_cast<ThreadBlocks*>(pointer);
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  std::erase(all.threads, blocks);
  for (std::uint64_t i = 0; i < blocks->count; ++i) std::free(blocks->blocks[i]);
  std::free(blocks->blocks);
  *blocks = {};
}

// For the end of the thread. False, and it has no blocks then: out of memory.
bool note_thread(Registry& all, ThreadBlocks& mine) noexcept {
  bool noted = pthread_setspecific(all.at_thread_end, &mine) == 0;
  try {
    if (noted) all.threads.push_back(&mine);
  } catch (const std::bad_alloc&) {
    noted = false;
  }
  if (noted) return true;
  (void)pthread_setspecific(all.at_thread_end, nullptr);
  std::free(std::exchange(mine.blocks, nullptr));
  return false;
}

// Null: out of memory.
std::byte* try_make_block(std::uint64_t i) noexcept {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  ThreadBlocks& mine = tenon_tls_blocks;
  TENON_CHECK(i < all.images.size() && all.images[i].size != 0, "a thread-local variable of a module that is gone");
  if (i >= mine.count) {
    std::uint64_t count = std::max<std::uint64_t>(i + 1, mine.count * 2);
    auto** grown = static_cast<std::byte**>(std::realloc(mine.blocks, count * sizeof(std::byte*)));
    if (grown == nullptr) return nullptr;
    std::memset(grown + mine.count, 0, (count - mine.count) * sizeof(std::byte*));
    const bool first = mine.blocks == nullptr;
    mine.blocks = grown;
    if (first && !note_thread(all, mine)) return nullptr;
    mine.count = count;
  }
  const TlsImage& image = all.images[i];
  std::uint64_t alignment = std::max<std::uint64_t>(image.alignment, 16);
  auto* block = static_cast<std::byte*>(std::aligned_alloc(alignment, base::align_up(image.size, alignment)));
  if (block == nullptr) return nullptr;
  if (image.content_size != 0) std::memcpy(block, image.content, image.content_size);
  std::memset(block + image.content_size, 0, image.size - image.content_size);
  mine.blocks[i] = block;
  return block;
}

// Here the program uses a variable: nobody could be handed an error. The C library ends the program too.
[[gnu::noinline]] void* make_block(link::TlsIndex* index) noexcept {
  std::byte* block = try_make_block(std::uint32_t(index->module));
  TENON_CHECK(block != nullptr, "out of memory for thread-local variables");
  return block + index->offset;
}

} // namespace

extern "C" void* tenon_tls_get_addr(link::TlsIndex* index) noexcept {
  if ((index->module & own_bit) == 0) return index->module == 0 ? nullptr : __tls_get_addr(index);
  const ThreadBlocks& mine = tenon_tls_blocks;
  std::uint64_t i = std::uint32_t(index->module);
  if (i < mine.count && mine.blocks[i] != nullptr) [[likely]]
    return mine.blocks[i] + index->offset;
  return make_block(index);
}

bool touch_tls(const TlsKey& key) noexcept {
  const ThreadBlocks& mine = tenon_tls_blocks;
  const std::uint64_t i = std::uint32_t(key.value());
  return (i < mine.count && mine.blocks[i] != nullptr) || try_make_block(i) != nullptr;
}

Result<void> ready_tls() {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  if (all.ready) return {};
  int reason = base::fault::injected(base::fault::Call::pthread_key_create)
                   ? errno
                   : pthread_key_create(&all.at_thread_end, forget_thread);
  if (reason != 0) return Error{ErrorCode::system, "pthread_key_create: " + std::generic_category().message(reason)};
  all.ready = true;
  return {};
}

TlsKey::TlsKey(const TlsImage& image) {
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  std::uint32_t index;
  TlsImage kept = image;
  kept.size = std::max<std::uint64_t>(kept.size, 1); // a size of zero marks a free index
  if (!all.free.empty()) {
    index = all.free.back();
    all.free.pop_back();
    all.images[index] = kept;
  } else {
    all.free.reserve(all.images.size() + 1); // so that giving an index back never allocates
    all.images.push_back(kept);
    index = std::uint32_t(all.images.size() - 1);
  }
  value_ = own_bit | index;
}

TlsKey::~TlsKey() {
  if (value_ == 0) return;
  Registry& all = registry();
  std::lock_guard lock(all.mutex);
  std::uint32_t index = std::uint32_t(value_);
  for (ThreadBlocks* thread : all.threads) {
    if (index >= thread->count) continue;
    std::free(thread->blocks[index]);
    thread->blocks[index] = nullptr;
  }
  all.images[index] = {};
  all.free.push_back(index);
}

std::uint64_t tls_get_addr_entry() noexcept { return reinterpret_cast<std::uint64_t>(&tenon_tls_get_addr); }

std::uint64_t tls_descriptor_entry() noexcept {
  static const bool measured = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    bool has_xsave = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & (1U << 27)) != 0; // OSXSAVE
    if (has_xsave && __get_cpuid_count(13, 0, &a, &b, &c, &d) != 0)
      tenon_xsave_bytes = base::align_up(b, 64); // for the state components that are enabled
    return true;
  }();
  (void)measured;
  return reinterpret_cast<std::uint64_t>(&tenon_tls_descriptor);
}

void lock_tls() noexcept { registry().mutex.lock(); }
void unlock_tls() noexcept { registry().mutex.unlock(); }

void forget_other_threads_tls() noexcept {
  // Their ThreadBlocks lie on stacks that the C library hands to new threads.
  std::erase_if(registry().threads, [](ThreadBlocks* thread) {
    if (thread == &tenon_tls_blocks) return false;
    for (std::uint64_t i = 0; i < thread->count; ++i) std::free(thread->blocks[i]);
    std::free(thread->blocks);
    *thread = {};
    return true;
  });
}

} // namespace tenon::engine
