// The pool of pieces, and lists in it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/list.h"
#include "base/pool.h"

#include <gtest/gtest.h>

#include <sys/mman.h>
#include <sys/resource.h>

#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace tenon {
namespace {

using base::List;
namespace pool = base::pool;

bool is_plain() { // a sanitizer's
  void* piece = pool::allocate(100);
  const bool plain = pool::usage().live == 0;
  pool::deallocate(piece, 100);
  return plain;
}

std::size_t resident(const void* begin, std::size_t size) {
  std::vector<unsigned char> pages(size / 4096 + 1);
  if (mincore(const_cast<void*>(begin), size, pages.data()) != 0) return 0;
  std::size_t count = 0;
  for (unsigned char page : pages) count += page & 1U;
  return count;
}

TEST(Pool, SizesAreRoundedUpToClasses) {
  EXPECT_EQ(pool::rounded(1), 16U);
  EXPECT_EQ(pool::rounded(16), 16U);
  EXPECT_EQ(pool::rounded(17), 32U);
  EXPECT_EQ(pool::rounded(512), 512U);
  EXPECT_EQ(pool::rounded(513), 576U);
  EXPECT_EQ(pool::rounded(1025), 1152U);
  EXPECT_EQ(pool::rounded(4096), 4096U);
  EXPECT_EQ(pool::rounded(4097), 4097U);
  for (std::size_t size = 1; size <= 4096; ++size) {
    ASSERT_GE(pool::rounded(size), size);
    ASSERT_EQ(pool::rounded(pool::rounded(size)), pool::rounded(size));
    ASSERT_LE(pool::rounded(size), size + std::max<std::size_t>(15, size / 8));
  }
}

TEST(Pool, PiecesAreApartAndAligned) {
  std::mt19937 random(1);
  struct Piece {
    unsigned char* at;
    std::size_t size;
    unsigned char mark;
  };
  std::vector<Piece> pieces;
  auto check = [](const Piece& piece) {
    for (std::size_t i = 0; i < piece.size; ++i)
      if (piece.at[i] != piece.mark) return false;
    return true;
  };
  const std::size_t before = pool::usage().live;
  for (int step = 0; step < 60000; ++step) {
    if (pieces.empty() || random() % 5 < 3) {
      const std::size_t size = 1 + random() % (random() % 8 == 0 ? 6000 : 300);
      auto* at = static_cast<unsigned char*>(pool::allocate(size));
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(at) % 16, 0U);
      pieces.push_back({at, size, static_cast<unsigned char>(random())});
      std::memset(at, pieces.back().mark, size);
    } else {
      std::swap(pieces[random() % pieces.size()], pieces.back());
      ASSERT_TRUE(check(pieces.back())) << "another piece was written to";
      pool::deallocate(pieces.back().at, pieces.back().size);
      pieces.pop_back();
    }
  }
  for (const Piece& piece : pieces) {
    ASSERT_TRUE(check(piece));
    pool::deallocate(piece.at, piece.size);
  }
  EXPECT_EQ(pool::usage().live, before);
}

TEST(Pool, PagesGoBackAndAddressesAreUsedAgain) {
  if (is_plain()) GTEST_SKIP() << "a sanitizer owns all memory";
  constexpr std::size_t size = 1008, count = 20000;
  auto fill = [&] {
    std::vector<void*> pieces;
    for (std::size_t i = 0; i < count; ++i) {
      pieces.push_back(pool::allocate(size));
      std::memset(pieces.back(), 1, size);
    }
    return pieces;
  };
  std::vector<void*> pieces = fill();
  const std::size_t mapped = pool::usage().mapped;
  auto pages = [&] {
    std::size_t sum = 0;
    for (std::size_t i = 0; i < count; i += 4) {
      auto* page = reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(pieces[i]) & ~std::uintptr_t(4095));
      sum += resident(page, 4096) != 0 ? 1 : 0;
    }
    return sum;
  };
  EXPECT_EQ(pages(), count / 4);
  for (void* piece : pieces) pool::deallocate(piece, size);
  EXPECT_LT(pages(), count / 40) << "pages of empty slabs stay";
  pieces = fill();
  EXPECT_EQ(pool::usage().mapped, mapped);
  EXPECT_GT(mapped, std::size_t(2) << 20);
  for (void* piece : pieces) pool::deallocate(piece, size);
  pool::end();
  EXPECT_EQ(pool::usage().mapped, std::size_t(2) << 20) << "nothing is in use: one chunk stays";
}

TEST(Pool, WhatIsWantedOverAndOverStaysUntilTheEnd) {
  if (is_plain()) GTEST_SKIP() << "a sanitizer owns all memory";
  ASSERT_EQ(pool::usage().live, 0U);
  constexpr std::size_t size = 1008, count = 6000; // 6 MB, 188 slabs
  std::vector<void*> pieces(count);
  const auto fill = [&] {
    for (void*& piece : pieces) std::memset(piece = pool::allocate(size), 1, size);
  };
  const auto empty = [&] {
    for (void* piece : pieces) pool::deallocate(piece, size);
  };
  const auto faults = [] {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_minflt;
  };
  pool::end();
  fill();
  empty();
  EXPECT_EQ(pool::usage().mapped, std::size_t(2) << 20) << "once is not over and over";
  for (int i = 0; i < 2; ++i) {
    fill();
    empty();
  }
  const long before = faults();
  fill();
  EXPECT_LT(faults() - before, 100) << "of 1,500 pages";
  empty();
  pool::end();
  EXPECT_EQ(pool::usage().mapped, std::size_t(2) << 20);
}

std::size_t kernel_mappings() {
  std::ifstream maps("/proc/self/maps");
  std::size_t count = 0;
  for (std::string line; std::getline(maps, line);) ++count;
  return count;
}

TEST(Pool, AnyNumberOfChunksIsOneMapping) {
  if (is_plain()) GTEST_SKIP() << "a sanitizer owns all memory";
  constexpr std::size_t size = 4096, count = 16384;
  std::vector<void*> pieces;
  pieces.reserve(count);
  const std::size_t before = kernel_mappings(), mapped = pool::usage().mapped;
  while (pieces.size() < count) pieces.push_back(pool::allocate(size));
  EXPECT_GE(pool::usage().mapped - mapped, count * size);
  EXPECT_LE(kernel_mappings(), before + 3);
  for (void* piece : pieces) pool::deallocate(piece, size);
}

// As tables are that grow meanwhile.
TEST(Pool, NorDoesItMatterWhatElseIsMapped) {
  if (is_plain()) GTEST_SKIP() << "a sanitizer owns all memory";
  constexpr std::size_t size = 4096, count = 16384, other = std::size_t(3) << 20;
  std::vector<void*> pieces, others;
  pieces.reserve(count);
  const std::size_t before = kernel_mappings();
  while (pieces.size() < count) {
    pieces.push_back(pool::allocate(size));
    if (pieces.size() % 512 != 0) continue;
    others.push_back(::mmap(nullptr, other, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    ASSERT_NE(others.back(), MAP_FAILED);
  }
  for (void* at : others) ::munmap(at, other);
  EXPECT_LE(kernel_mappings(), before + 3);
  for (void* piece : pieces) pool::deallocate(piece, size);
}

TEST(Pool, ThreadsTakeTurns) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::vector<int*> mine;
      for (int i = 0; i < 5000; ++i) {
        mine.push_back(static_cast<int*>(pool::allocate(48)));
        *mine.back() = t;
        if (i % 3 == 0) {
          wrong += *mine.back() == t ? 0 : 1;
          pool::deallocate(mine.back(), 48);
          mine.pop_back();
        }
      }
      for (int* piece : mine) {
        wrong += *piece == t ? 0 : 1;
        pool::deallocate(piece, 48);
      }
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(List, IsAsLargeAsAPointerAndLikeAVector) {
  static_assert(sizeof(List<std::string>) == sizeof(void*));
  std::mt19937 random(2);
  List<std::string> list;
  std::vector<std::string> vector;
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(list.begin(), list.end());
  for (int step = 0; step < 20000; ++step) {
    const std::string text(random() % 40, static_cast<char>('a' + random() % 26));
    switch (random() % 9) {
    case 0:
      if (!vector.empty()) list.pop_back(), vector.pop_back();
      break;
    case 1: list.reserve(random() % 20); break;
    case 2:
      if (!vector.empty()) {
        const std::size_t at = random() % vector.size();
        list.erase(list.begin() + at);
        vector.erase(vector.begin() + std::ptrdiff_t(at));
      }
      break;
    case 3:
      erase_if(list, [&](const std::string& s) { return s == text; });
      std::erase(vector, text);
      break;
    case 4:
      if (!vector.empty()) list.push_back(list.front()), vector.push_back(std::string(vector.front()));
      break;
    case 5:
      if (random() % 50 == 0) list.resize(5), vector.resize(5);
      break;
    case 6: {
      List<std::string> copy = list, other;
      other = copy;
      list = std::move(other);
      break;
    }
    default: list.push_back(text), vector.push_back(text);
    }
    ASSERT_TRUE(std::equal(list.begin(), list.end(), vector.begin(), vector.end())) << step;
    ASSERT_LE(list.size(), list.capacity());
  }
  list.append(vector.begin(), vector.end());
  EXPECT_EQ(list.size(), 2 * vector.size());
  const std::string* there = list.data();
  list.clear();
  EXPECT_EQ(list.data(), there) << "room is kept";
  list = {};
  EXPECT_EQ(list.capacity(), 0U);
}

TEST(List, FailsWithoutAChange) {
  if (is_plain()) GTEST_SKIP() << "a sanitizer owns all memory";
  List<std::unique_ptr<int>> list;
  list.push_back(std::make_unique<int>(1));
  while (list.size() < list.capacity()) list.push_back(nullptr);
  const std::size_t size = list.size();
  pool::watch = [](bool made) noexcept { return !made; };
  EXPECT_THROW(list.push_back(nullptr), std::bad_alloc);
  EXPECT_THROW(list.reserve(100), std::bad_alloc);
  pool::watch = nullptr;
  EXPECT_EQ(list.size(), size);
  EXPECT_EQ(*list.front(), 1);
}

} // namespace
} // namespace tenon
