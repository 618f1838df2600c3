// Where a reservation goes: just below the host's libraries, or into the low 2 GiB.
//
// Code refers to the host's data with 32-bit displacements that nothing can mend (copy relocations aside, `stdout` is such
// data), so the code area, which is the top of a reservation, should lie within 2 GiB of everything that is mapped near
// libc. The kernel hands out addresses downwards from there, so some room is left between: libraries that the host loads
// later, and its large heap blocks, then still fall between the reservation and the libraries, not below it, out of reach.
//
// Low reservations leave the room above a heap that also lies low (non-PIE programs) to the heap.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "base/fault.h"
#include "memory/space.h"
#include "memory/system.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include <fcntl.h>
#include <gnu/libc-version.h>
#include <sys/mman.h>
#include <unistd.h>

namespace tenon::memory {

namespace {

constexpr std::uint64_t reach = std::uint64_t(1) << 31;
constexpr std::uint64_t lowest = 0x10000; // vm.mmap_min_addr of every distribution
constexpr std::uint64_t room_for_libraries = std::uint64_t(256) << 20;
constexpr std::uint64_t room_for_heap = std::uint64_t(256) << 20;
constexpr std::uint64_t smallest_low = std::uint64_t(64) << 20;

struct Mapped {
  std::uint64_t begin = 0, end = 0;
  bool heap = false;
};

// Calls `see` for each mapping in address order. No memory is allocated: only the head of each line is kept.
template <class See> bool each_mapping(See see) noexcept {
  const int fd = base::fault::injected(base::fault::Call::open) ? -1 : ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  char line[256];
  char buffer[8192];
  std::size_t length = 0;
  ssize_t got = 0;
  while ((got = ::read(fd, buffer, sizeof buffer)) > 0 || (got < 0 && errno == EINTR)) {
    for (ssize_t i = 0; i < got; ++i) {
      if (buffer[i] != '\n') {
        if (length + 1 < sizeof line) line[length++] = buffer[i];
        continue;
      }
      line[length] = '\0';
      length = 0;
      char* rest = nullptr;
      const std::uint64_t begin = std::strtoull(line, &rest, 16);
      const std::uint64_t end = *rest == '-' ? std::strtoull(rest + 1, &rest, 16) : begin;
      see(Mapped{begin, end, std::strstr(rest, "[heap]") != nullptr});
    }
  }
  ::close(fd);
  return got == 0;
}

// The highest gap below libc that is large enough; in it as high as leaves room for libraries, or as there is.
Addr place_below_libraries(std::uint64_t size) noexcept {
  const auto libc = reinterpret_cast<std::uint64_t>(gnu_get_libc_version());
  std::uint64_t previous_end = lowest;
  std::uint64_t gap_begin = 0, gap_end = 0;
  const bool read = each_mapping([&](const Mapped& mapped) {
    if (mapped.begin <= libc && mapped.begin > previous_end &&
        mapped.begin - previous_end >= size + system::huge_page_size) {
      gap_begin = previous_end;
      gap_end = mapped.begin;
    }
    previous_end = std::max(previous_end, mapped.end);
  });
  if (!read || gap_end == 0) return {};
  const std::uint64_t spare = gap_end - gap_begin - size - system::huge_page_size;
  return {base::align_down(gap_end - size - std::min(spare, room_for_libraries), system::huge_page_size)};
}

Addr place_low(std::uint64_t size) noexcept {
  std::uint64_t previous_end = lowest;
  std::uint64_t best = 0;
  const auto consider = [&](std::uint64_t begin, std::uint64_t end) {
    begin = base::align_up(begin, system::huge_page_size);
    end = std::min(base::align_down(end, system::huge_page_size), reach);
    if (end > begin && end - begin >= size) best = end - size; // the highest: programs and their heaps grow from below
  };
  const bool read = each_mapping([&](const Mapped& mapped) {
    if (previous_end < mapped.begin) consider(previous_end, mapped.begin);
    previous_end = std::max(previous_end, mapped.end + (mapped.heap ? room_for_heap : 0));
  });
  if (previous_end < reach) consider(previous_end, reach);
  return {read ? best : 0};
}

// The highest place that was given back: its begin, of whole huge pages, and below that its size in pages. Zero: none.
std::atomic<std::uint64_t> place_given_back{0};
constexpr std::uint64_t page_count_mask = system::huge_page_size - 1;
static_assert(reach / system::page_size <= page_count_mask);

void release_plain(void*, std::byte* begin, std::size_t size) noexcept {
  system::unmap(begin, size);
  give_back_place(Addr::of(begin), size);
}

Result<AddressRange> reserve_at(Addr place, std::uint64_t size, bool must) {
  constexpr int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const int exact = place ? MAP_FIXED_NOREPLACE : 0;
  Result<std::byte*> begin = system::map(place.as<void*>(), size, PROT_NONE, flags | exact, -1, 0, "the reservation");
  // Somebody was faster, or an old kernel took the address for a hint only.
  if (begin && place && *begin != place.as<std::byte*>() && must) {
    system::unmap(*begin, size);
    errno = EEXIST;
    return system::failure("mmap", "the reservation");
  }
  if (!begin) return std::move(begin).error();
  return AddressRange{*begin, size, release_plain, nullptr, 0};
}

Result<AddressRange> reserve_low(const SpaceOptions& options) {
  std::uint64_t size = options.size;
  for (int attempt = 0; size >= smallest_low || size == options.size; ++attempt) {
    const Addr place = find_place({size, true, options.mapping});
    if (place) {
      Result<AddressRange> range = reserve_at(place, size, true);
      if (range || errno != EEXIST || attempt == 64) return range;
      continue; // the map has changed: look again
    }
    size = std::bit_floor(size - 1);
  }
  return Error{ErrorCode::exhausted, "no room in the low 2 GiB for a reservation of " +
                                         std::to_string(std::min(options.size, smallest_low) >> 20) + " MiB"};
}

} // namespace

std::array<AreaBounds, area_kinds> area_layout(std::uint64_t size, std::uint64_t reserved_prefix) noexcept {
  // In units of a 64th. An entry of the unwinder's table per 96 bytes of code fits into the frames area.
  constexpr std::uint64_t data = 16, rodata = 20, frames = 2, slots = 2;
  const std::uint64_t rounding = size >= (std::uint64_t(256) << 20) ? system::huge_page_size : system::page_size;
  const auto cut = [&](std::uint64_t units) { return base::align_up(size / 64 * units, rounding); };
  std::array<AreaBounds, area_kinds> bounds;
  bounds[std::size_t(AreaKind::data)] = {reserved_prefix, std::max(cut(data), reserved_prefix)};
  bounds[std::size_t(AreaKind::rodata)] = {bounds[std::size_t(AreaKind::data)].end, cut(data + rodata)};
  bounds[std::size_t(AreaKind::slots)] = {cut(data + rodata), cut(data + rodata + slots)};
  bounds[std::size_t(AreaKind::code)] = {cut(data + rodata + slots), cut(64 - frames)};
  bounds[std::size_t(AreaKind::frames)] = {cut(64 - frames), size};
  return bounds;
}

bool is_good_place(Addr begin, std::uint64_t size) noexcept {
  const auto libc = reinterpret_cast<std::uint64_t>(gnu_get_libc_version());
  const std::uint64_t end = begin.value + size;
  return end <= libc && libc - end <= reach / 2 && begin.value % system::huge_page_size == 0;
}

void give_back_place(Addr begin, std::uint64_t size) noexcept {
  if (!is_good_place(begin, size)) return;
  const std::uint64_t place = begin.value | size / system::page_size;
  for (std::uint64_t known = place_given_back.load(std::memory_order_relaxed);
       known < place || (known ^ place) % system::huge_page_size != 0;)
    if (place_given_back.compare_exchange_weak(known, place, std::memory_order_relaxed)) return;
}

Addr take_given_back(std::uint64_t size) noexcept {
  std::uint64_t known = place_given_back.load(std::memory_order_relaxed);
  if ((known & page_count_mask) != size / system::page_size) return {};
  if (!place_given_back.compare_exchange_strong(known, 0, std::memory_order_relaxed)) return {};
  return {known & ~page_count_mask};
}

Addr find_place(const SpaceOptions& options) noexcept {
  const std::uint64_t size = base::align_up(options.size, system::page_size);
  if (size == 0 || size > reach) return {};
  return options.low_2gib ? place_low(size) : place_below_libraries(size);
}

Result<AddressRange> reserve(const SpaceOptions& given) {
  SpaceOptions options = given;
  options.size = base::align_up(options.size, system::page_size);
  if (options.size == 0 || options.size > reach)
    return Error{ErrorCode::invalid_argument, "a reservation has between one byte and 2 GiB"};
  if (options.low_2gib) return reserve_low(options);
  if (const Addr place = take_given_back(options.size)) {
    Result<AddressRange> range = reserve_at(place, options.size, true);
    if (range || errno != EEXIST) return range;
  }
  if (const Addr place = find_place(options)) {
    Result<AddressRange> range = reserve_at(place, options.size, false);
    if (range || errno != EEXIST) return range;
  }
  return reserve_at({}, options.size, false);
}

} // namespace tenon::memory
