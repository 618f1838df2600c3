// Pieces of scratch memory: where they lie, and who may give them back when.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/scratch.h"

#include <gtest/gtest.h>

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <random>
#include <stdexcept>
#include <thread>

namespace tenon {
namespace {

namespace scratch = base::scratch;

struct Piece {
  void* at;
  std::size_t size, alignment;
  unsigned char filling;
};

Piece make(std::size_t size, std::size_t alignment = 16, unsigned char filling = 0x5A) {
  Piece piece{scratch::allocate(size, alignment), size, alignment, filling};
  std::memset(piece.at, filling, size);
  return piece;
}

bool is_whole(const Piece& piece) {
  const auto* bytes = static_cast<const unsigned char*>(piece.at);
  return std::all_of(bytes, bytes + piece.size, [&](unsigned char byte) { return byte == piece.filling; });
}

void give_back(const Piece& piece) { scratch::deallocate(piece.at, piece.size, piece.alignment); }

TEST(Scratch, SameMemoryServesOneChangeAfterAnother) {
  if (scratch::is_plain) GTEST_SKIP() << "pieces are operator new's";
  std::thread([] {
    const Piece first = make(100), second = make(300);
    EXPECT_NE(first.at, second.at);
    give_back(first);
    give_back(second);
    for (int i = 0; i < 1000; ++i) {
      const Piece again = make(700);
      EXPECT_EQ(again.at, first.at);
      give_back(again);
    }
  }).join();
}

TEST(Scratch, PiecesDoNotOverlapAndAreAligned) {
  std::mt19937 random(1);
  std::vector<Piece> pieces;
  for (int round = 0; round < 20000; ++round) {
    const std::size_t alignment = std::size_t(16) << random() % 3;
    pieces.push_back(make(random() % 2500 + 1, alignment, static_cast<unsigned char>(random())));
    ASSERT_EQ(reinterpret_cast<std::uintptr_t>(pieces.back().at) % alignment, 0U);
    while (pieces.size() > 200 || (!pieces.empty() && random() % 3 == 0)) {
      std::swap(pieces[random() % pieces.size()], pieces.back());
      ASSERT_TRUE(is_whole(pieces.back()));
      give_back(pieces.back());
      pieces.pop_back();
    }
  }
  for (const Piece& piece : pieces) {
    ASSERT_TRUE(is_whole(piece));
    give_back(piece);
  }
}

TEST(Scratch, WhatAnotherThreadGivesBackIsUsedAgain) {
  if (scratch::is_plain) GTEST_SKIP() << "pieces are operator new's";
  std::thread([] {
    // More than a chunk each time, all of it given back elsewhere: memory must not grow with the rounds.
    const auto in_use = [] { return mallinfo2().uordblks + mallinfo2().hblkhd; };
    std::size_t settled = 0;
    for (int round = 0; round < 400; ++round) {
      std::vector<Piece> pieces;
      for (int i = 0; i < 40; ++i) pieces.push_back(make(1000));
      std::thread([&] {
        for (const Piece& piece : pieces) give_back(piece);
      }).join();
      if (round == 50) settled = in_use();
    }
    EXPECT_LT(in_use(), settled + 8 * scratch::chunk_size);
  }).join();
}

TEST(Scratch, PiecesOutliveTheirThread) {
  const auto in_use = [] { return mallinfo2().uordblks; };
  const std::size_t before = in_use();
  for (int round = 0; round < 200; ++round) {
    std::vector<Piece> pieces;
    std::thread([&] {
      for (int i = 0; i < 100; ++i) pieces.push_back(make(500, 16, static_cast<unsigned char>(i)));
      for (int i = 0; i < 10; ++i) { // some go before
        give_back(pieces.back());
        pieces.pop_back();
      }
    }).join();
    for (const Piece& piece : pieces) {
      ASSERT_TRUE(is_whole(piece));
      give_back(piece);
    }
  }
  const std::size_t after = scratch::is_plain ? before : in_use();
  EXPECT_LT(after, before + 8 * scratch::chunk_size);
}

TEST(Scratch, BothThreadsGiveBackAtOnce) {
  for (int round = 0; round < 200; ++round) {
    std::vector<Piece> theirs;
    std::thread maker;
    std::atomic<bool> made{false};
    maker = std::thread([&] {
      std::vector<Piece> own;
      for (int i = 0; i < 200; ++i) (i % 2 == 0 ? own : theirs).push_back(make(400, 16, static_cast<unsigned char>(i)));
      made.store(true, std::memory_order_release);
      for (const Piece& piece : own) {
        EXPECT_TRUE(is_whole(piece));
        give_back(piece);
        const Piece more = make(48);
        EXPECT_TRUE(is_whole(more));
        give_back(more);
      }
    });
    while (!made.load(std::memory_order_acquire)) std::this_thread::yield();
    for (const Piece& piece : theirs) {
      EXPECT_TRUE(is_whole(piece));
      give_back(piece);
    }
    maker.join();
  }
}

TEST(Scratch, LatePiecesOfAThread) {
  struct Late {
    Piece piece{};
    ~Late() {
      const Piece later = make(64); // after the thread's own memory has gone
      EXPECT_TRUE(is_whole(later));
      give_back(later);
      if (piece.at != nullptr) give_back(piece);
    }
  };
  std::thread([] {
    static thread_local Late late; // before the first piece: destroyed after the thread's chunks are
    late.piece = make(64);
  }).join();
}

TEST(Scratch, FailureIsInjected) {
  if (scratch::is_plain) GTEST_SKIP() << "operator new's pieces are not watched";
  base::pool::watch = [](bool made) noexcept { return !made; };
  EXPECT_THROW((void)scratch::allocate(100, 16), std::bad_alloc);
  base::pool::watch = nullptr;
}

TEST(Scratch, ListsAreMadeOfIt) {
  base::Vector<int> list;
  for (int i = 0; i < 10000; ++i) list.push_back(i);
  for (int i = 0; i < 10000; ++i) ASSERT_EQ(list[std::size_t(i)], i);
  EXPECT_THROW(list.reserve(std::size_t(1) << 62), std::length_error);
}

} // namespace
} // namespace tenon
