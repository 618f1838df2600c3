// The scan. Loops are written out, without library calls: this runs in a signal handler, too, where a sanitizer's own
// bookkeeping must not be entered.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "reclaim/scan.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace tenon::reclaim {
namespace {

constexpr std::uint64_t page = 4096;

#if defined(__x86_64__)
// gregs of a ucontext: ..., RSP, RIP, EFLAGS, CS|GS|FS|SS. 64-bit user code has CS 0x33 and SS 0x2b, the kernel writes GS
// and FS as zero.
constexpr std::uint64_t signal_mark = 0x002b'0000'0000'0033;
constexpr std::size_t mark_to_sp = 3;
constexpr std::size_t mark_to_pc = 2;
#endif

#if defined(__x86_64__)
// Of ff /2 with this ModRM byte and perhaps a SIB byte behind; without prefixes.
std::size_t indirect_call_size(const unsigned char* bytes) noexcept {
  const unsigned mode = bytes[1] >> 6, base = bytes[1] & 7;
  if (mode == 3) return 2;
  const std::size_t size = base == 4 ? 3 : 2;
  if (mode == 1) return size + 1;
  if (mode == 2) return size + 4;
  return base == 5 || (base == 4 && (bytes[2] & 7) == 5) ? size + 4 : size;
}
#endif

// How much of it was read, zero at a fault. What is read comes from the low end.
std::size_t read_memory(pid_t self, std::uint64_t from, void* to, std::size_t size) noexcept {
  iovec local{to, size};
  iovec remote{reinterpret_cast<void*>(from), size};
  const long n = syscall(SYS_process_vm_readv, self, &local, 1UL, &remote, 1UL, 0UL);
  return n < 0 ? 0 : static_cast<std::size_t>(n);
}

} // namespace

Workspace::Workspace(const RangeSet& ranges)
    : hits_(std::make_unique<Hit[]>(ranges.size())), stamps_(std::make_unique<std::uint32_t[]>(ranges.size())),
      buffer_(std::make_unique<std::uint64_t[]>(carried + words)), size_(ranges.size()) {}

void Workspace::clear() noexcept {
  count_ = 0;
  in_transit_ = false;
  if (++round_ != 0) return;
  for (std::size_t i = 0; i < size_; ++i) stamps_[i] = 0;
  round_ = 1;
}

bool Scan::returns_to(std::uint64_t address) const noexcept {
#if defined(__x86_64__)
  constexpr std::size_t longest_call = 7; // ff /2 with a SIB byte and 32 bits of displacement
  unsigned char bytes[longest_call] = {};
  const pid_t self = getpid();
  if (read_memory(self, address - longest_call, bytes, longest_call) != longest_call) {
    // The page before is no code, or this one can't be read: then believe the word.
    const std::size_t count = address % page < longest_call ? address % page : longest_call;
    unsigned char* const at = bytes + longest_call - count;
    if (count == 0) return read_memory(self, address, bytes, 1) == 0;
    if (read_memory(self, address - count, at, count) != count) return true;
    for (unsigned char* before = bytes; before != at; ++before) *before = 0;
  }
  if (bytes[longest_call - 5] == 0xe8) return true;
  for (std::size_t i = 0; i + 1 < longest_call; ++i)
    if (bytes[i] == 0xff && (bytes[i + 1] >> 3 & 7) == 2 && indirect_call_size(bytes + i) == longest_call - i) return true;
  return false;
#elif defined(__aarch64__)
  std::uint32_t instruction = 0;
  if (read_memory(getpid(), address - 4, &instruction, 4) != 4) return true;
  return (instruction & 0xfc00'0000) == 0x9400'0000 || (instruction & 0xffff'fc1f) == 0xd63f'0000; // bl, blr
#else
  return address != 0;
#endif
}

void Scan::word(std::uint64_t word) noexcept {
  if (!ranges_.may_hold(word)) return;
  bool held = false;
  ranges_.find(word, [&held](std::uint32_t) { held = true; });
  if (held && returns_to(word)) pc(word);
}

void Scan::pc(std::uint64_t word) noexcept {
  Workspace& w = workspace_;
  if (word >= Transit::begin.load(std::memory_order_relaxed) && word < Transit::end.load(std::memory_order_relaxed))
    w.in_transit_ = true;
  ranges_.find(word, [&w, word](std::uint32_t range) {
    if (w.stamps_.get()[range] == w.round_) return;
    w.stamps_.get()[range] = w.round_;
    w.hits_.get()[w.count_++] = {range, {word}};
  });
}

void Scan::words(const std::uint64_t* begin, const std::uint64_t* end) noexcept {
  for (const std::uint64_t* at = begin; at != end; ++at) {
    if (ranges_.may_hold(*at)) word(*at);
#if defined(__x86_64__)
    if (*at == signal_mark) {
      pc(at[-static_cast<std::ptrdiff_t>(mark_to_pc)]);
      push(at[-static_cast<std::ptrdiff_t>(mark_to_sp)]);
    }
#endif
  }
}

void Scan::push(std::uint64_t sp) noexcept {
  sp &= ~std::uint64_t(7);
  if (sp < page) return;
  for (std::size_t i = 0; i < done_; ++i)
    if (sp >= extents_[i].begin && sp < extents_[i].end) return;
  for (std::size_t i = done_; i < pending_count_; ++i)
    if (sp == pending_[i]) return;
  if (pending_count_ == max_extents) {
    too_many_ = true;
    return;
  }
  pending_[pending_count_++] = sp;
}

std::uint64_t Scan::stretch(std::uint64_t begin, std::uint64_t end) noexcept {
  std::uint64_t* const buffer = workspace_.buffer_.get();
  constexpr std::size_t carried = Workspace::carried;
  for (std::size_t i = 0; i < carried; ++i) buffer[i] = 0;
  const pid_t self = getpid();
  std::uint64_t at = begin;
  while (at < end) {
    const std::uint64_t most = Workspace::words * sizeof(std::uint64_t);
    const std::uint64_t wanted = end - at < most ? end - at : most;
    const std::size_t count = read_memory(self, at, buffer + carried, wanted) / sizeof(std::uint64_t);
    if (count == 0) break;
    words(buffer + carried, buffer + carried + count);
    for (std::size_t i = 0; i < carried; ++i) buffer[i] = buffer[count + i];
    at += count * sizeof(std::uint64_t);
  }
  return at;
}

Scan::Outcome Scan::stack(std::uint64_t sp, const Home& home, std::uint64_t bound) noexcept {
  pending_count_ = done_ = 0;
  too_many_ = false;
  bool home_seen = home.end == 0;
  push(sp);
  for (; done_ < pending_count_; ++done_) {
    const std::uint64_t from = pending_[done_];
    std::uint64_t to = home.end > from ? home.end : ~std::uint64_t(7);
    bool ends_at_home = to == home.end;
    if (done_ == 0 && bound > from && bound < to) {
      to = bound;
      ends_at_home = false;
    }
    // The limit counts only where nothing else stops the reading: a hole comes soon after nearly every stack.
    const bool limited = to - from > longest;
    const std::uint64_t reached = stretch(from, limited ? from + longest : to);
    extents_[done_] = {from, reached};
    // A stack pointer that stands in a stale signal frame may lead nowhere by now; that of the thread itself may not.
    if (reached == from && done_ == 0 && from != to) return Outcome::unreadable;
    if (limited && reached == from + longest) return Outcome::unreadable;
    if (reached == to && ends_at_home) home_seen = true;
  }
  if (too_many_) return Outcome::unreadable;
  return home_seen ? Outcome::complete : Outcome::home_unseen;
}

void Scan::whole(std::uint64_t begin, std::uint64_t end) noexcept {
  // Signal frames on a stack that is read whole may be old ones, and a live one belongs to a thread that is looked at
  // itself.
  pending_count_ = max_extents;
  for (std::uint64_t at = (begin + 7) & ~std::uint64_t(7); at < end;) {
    at = stretch(at, end);
    if (at < end) at = (at / page + 1) * page; // a guard page, perhaps
  }
}

} // namespace tenon::reclaim
