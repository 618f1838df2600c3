// The walker over .eh_frame content: real sections, every truncation, and what is malformed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/eh_frame.h"

#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <link.h>

namespace tenon {
namespace {

using object::EhRecord;

struct Builder {
  std::vector<std::byte> bytes;

  std::uint32_t here() const { return static_cast<std::uint32_t>(bytes.size()); }
  template <class T> Builder& put(T value) {
    const auto* from = reinterpret_cast<const std::byte*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
    return *this;
  }
  std::uint32_t cie(std::uint32_t length = 20) {
    const std::uint32_t at = here();
    put(length).put(std::uint32_t(0));
    bytes.resize(at + 4 + length);
    return at;
  }
  std::uint32_t fde(std::uint32_t cie_at, std::uint32_t length = 20) {
    const std::uint32_t at = here();
    put(length).put(std::uint32_t(at + 4 - cie_at));
    bytes.resize(at + 4 + length);
    return at;
  }
};

Result<void> walk(Bytes bytes, std::vector<EhRecord>* out = nullptr) {
  return object::walk_eh_frame(bytes, [&](const EhRecord& record) {
    if (out != nullptr) out->push_back(record);
  });
}

void expect_malformed(const Builder& builder, std::uint32_t offset) {
  const auto result = walk(builder.bytes);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::malformed);
  EXPECT_TRUE(result.error().message.ends_with("offset " + std::to_string(offset))) << result.error().message;
}

TEST(EhFrame, NamesEachRecord) {
  Builder builder;
  const auto first = builder.cie(16);
  const auto a = builder.fde(first, 24);
  const auto second = builder.cie(28);
  const auto b = builder.fde(second, 12);
  const auto c = builder.fde(first, 8);
  std::vector<EhRecord> records;
  ASSERT_TRUE(walk(builder.bytes, &records));
  ASSERT_EQ(records.size(), 5u);
  EXPECT_TRUE(records[0].is_cie);
  EXPECT_EQ(records[0].offset, first);
  EXPECT_EQ(records[0].size, 20u);
  EXPECT_EQ(records[0].cie_offset, first);
  EXPECT_FALSE(records[1].is_cie);
  EXPECT_EQ(records[1].offset, a);
  EXPECT_EQ(records[1].size, 28u);
  EXPECT_EQ(records[1].pc_begin_offset, a + 8);
  EXPECT_EQ(records[1].cie_offset, first);
  EXPECT_EQ(records[3].offset, b);
  EXPECT_EQ(records[3].cie_offset, second);
  EXPECT_EQ(records[4].offset, c);
  EXPECT_EQ(records[4].cie_offset, first);
}

TEST(EhFrame, EmptyIsInOrder) { EXPECT_TRUE(walk({})); }

TEST(EhFrame, StopsAtAZeroLength) {
  Builder builder;
  builder.cie();
  builder.put(std::uint32_t(0)).put(std::uint32_t(0xFFFFFFF0)).put(std::uint8_t(1));
  std::vector<EhRecord> records;
  ASSERT_TRUE(walk(builder.bytes, &records));
  EXPECT_EQ(records.size(), 1u);
}

TEST(EhFrame, ReadsExtendedLengths) {
  Builder builder;
  const auto cie = builder.cie();
  const auto fde = builder.here();
  builder.put(std::uint32_t(0xFFFFFFFF)).put(std::uint64_t(16)).put(std::uint32_t(fde + 12 - cie));
  builder.bytes.resize(fde + 12 + 16);
  builder.fde(cie);
  std::vector<EhRecord> records;
  ASSERT_TRUE(walk(builder.bytes, &records));
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[1].size, 28u);
  EXPECT_EQ(records[1].pc_begin_offset, fde + 16);
  EXPECT_EQ(records[1].cie_offset, cie);
  EXPECT_EQ(records[2].offset, fde + 28);
}

TEST(EhFrame, RefusesExtendedLengthsThatWrapAround) {
  for (std::uint64_t length : {~std::uint64_t(0), ~std::uint64_t(0) - 11, std::uint64_t(1) << 32, std::uint64_t(9)}) {
    Builder builder;
    builder.cie();
    const auto at = builder.here();
    builder.put(std::uint32_t(0xFFFFFFFF)).put(length).put(std::uint64_t(0));
    expect_malformed(builder, at);
  }
}

TEST(EhFrame, RefusesAPointerThatNamesNoCie) {
  Builder good;
  const auto cie = good.cie();
  const auto fde = good.fde(cie);
  const auto at = good.fde(cie);
  const std::uint32_t bad[] = {at + 4 - fde,       // at an FDE
                               at + 4 - (cie + 4), // inside the CIE
                               at + 5,             // before the section
                               0xFFFFFFFF,
                               0x80000000,
                               4 /* at itself */};
  for (std::uint32_t pointer : bad) {
    Builder builder = good;
    std::memcpy(builder.bytes.data() + at + 4, &pointer, 4);
    expect_malformed(builder, at);
  }
  Builder first;
  first.fde(4); // pointer 0 would make it a CIE: this one points 0 bytes back from 4
  first.bytes[4] = std::byte{1};
  expect_malformed(first, 0);
}

TEST(EhFrame, RefusesRecordsThatAreTooShort) {
  for (std::uint32_t length : {1u, 3u, 4u, 7u}) {
    Builder builder;
    builder.cie();
    const auto at = builder.here();
    builder.put(length).put(std::uint64_t(0));
    expect_malformed(builder, at);
  }
}

TEST(EhFrame, ManyCies) {
  Builder builder;
  std::vector<std::uint32_t> cies;
  for (int i = 0; i < 5000; ++i) {
    cies.push_back(builder.cie());
    builder.fde(cies.back());
  }
  for (std::uint32_t cie : cies) builder.fde(cie);
  std::size_t records = 0;
  ASSERT_TRUE(object::walk_eh_frame(builder.bytes, [&](const EhRecord&) { ++records; }));
  EXPECT_EQ(records, 15000u);
  const auto at = builder.fde(cies[2500] + 4);
  expect_malformed(builder, at);
}

TEST(EhFrame, EveryTruncationIsFoundOrEndsBetweenRecords) {
  Builder builder;
  const auto cie = builder.cie();
  std::vector<std::uint32_t> ends{0, builder.here()};
  for (int i = 0; i < 4; ++i) {
    builder.fde(cie, 20 + 4 * i);
    ends.push_back(builder.here());
  }
  const auto long_one = builder.here();
  builder.put(std::uint32_t(0xFFFFFFFF)).put(std::uint64_t(12)).put(std::uint32_t(long_one + 12 - cie));
  builder.bytes.resize(long_one + 24);
  ends.push_back(builder.here());
  for (std::size_t size = 0; size <= builder.bytes.size(); ++size) {
    // A copy of just that size: a sanitizer sees every byte read too many.
    const auto copy = std::make_unique<std::byte[]>(size);
    std::memcpy(copy.get(), builder.bytes.data(), size);
    const bool between = std::find(ends.begin(), ends.end(), size) != ends.end();
    const auto result = walk({copy.get(), size});
    EXPECT_EQ(result.ok(), between) << size;
    if (!result) {
      EXPECT_EQ(result.error().code, ErrorCode::malformed);
    }
  }
}

TEST(EhFrame, RandomDamageNeverLeavesTheSection) {
  const unsigned seed = std::random_device()();
  RecordProperty("seed", static_cast<int>(seed));
  SCOPED_TRACE("seed " + std::to_string(seed));
  std::mt19937 random(seed);
  Builder good;
  const auto cie = good.cie();
  for (int i = 0; i < 8; ++i) good.fde(cie);
  for (int round = 0; round < 20000; ++round) {
    const std::size_t size = random() % (good.bytes.size() + 1);
    const auto copy = std::make_unique<std::byte[]>(size);
    std::memcpy(copy.get(), good.bytes.data(), size);
    for (unsigned i = random() % 4; i > 0 && size > 0; --i)
      copy[random() % size] = static_cast<std::byte>(random() % 3 == 0 ? 0xFF : random());
    std::uint64_t end = 0;
    const auto result = object::walk_eh_frame({copy.get(), size}, [&](const EhRecord& record) {
      ASSERT_EQ(record.offset, end);
      end = std::uint64_t(record.offset) + record.size;
      ASSERT_LE(end, size);
      if (!record.is_cie) {
        ASSERT_LE(record.pc_begin_offset + 4, end);
        ASSERT_LT(record.cie_offset, record.offset);
      }
    });
    if (!result) {
      EXPECT_EQ(result.error().code, ErrorCode::malformed);
    }
  }
}

TEST(EhFrame, AVisitorsErrorEndsTheWalk) {
  Builder builder;
  const auto cie = builder.cie();
  builder.fde(cie);
  builder.fde(cie);
  int visited = 0;
  const auto result = object::walk_eh_frame(builder.bytes, [&](const EhRecord& record) -> Result<void> {
    ++visited;
    if (!record.is_cie) return Error{ErrorCode::unsupported, "enough"};
    return {};
  });
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().message, "enough");
  EXPECT_EQ(visited, 2);
}

// The sections of this process's own objects are linked, but the format is the same: the linker's table says how many FDEs
// there are.
TEST(EhFrame, AgreesWithTheLinkersTables) {
  int compared = 0;
  const auto visit_object = [](dl_phdr_info* info, std::size_t, void* out) {
    const ElfW(Phdr)* header = nullptr, *load = nullptr;
    for (int i = 0; i < info->dlpi_phnum; ++i)
      if (info->dlpi_phdr[i].p_type == PT_GNU_EH_FRAME) header = &info->dlpi_phdr[i];
    for (int i = 0; header != nullptr && i < info->dlpi_phnum; ++i) {
      const auto& phdr = info->dlpi_phdr[i];
      if (phdr.p_type == PT_LOAD && header->p_vaddr >= phdr.p_vaddr && header->p_vaddr < phdr.p_vaddr + phdr.p_memsz)
        load = &phdr;
    }
    if (load == nullptr) return 0;
    const auto* table = reinterpret_cast<const std::byte*>(info->dlpi_addr + header->p_vaddr);
    const unsigned char encodings[] = {1, 0x1B, 0x03, 0x3B};
    if (std::memcmp(table, encodings, 4) != 0) return 0;
    const auto* eh_frame = table + 4 + base::load_le<std::int32_t>(table + 4);
    const auto* end = reinterpret_cast<const std::byte*>(info->dlpi_addr + load->p_vaddr + load->p_memsz);
    if (eh_frame >= end) return 0;
    std::uint32_t fdes = 0;
    const auto result = object::walk_eh_frame({eh_frame, end}, [&](const EhRecord& record) { fdes += !record.is_cie; });
    // The last object of a segment may lack the zero length: then what follows is no record.
    if (result) {
      EXPECT_EQ(fdes, base::load_le<std::uint32_t>(table + 8)) << info->dlpi_name;
      ++*static_cast<int*>(out);
    }
    return 0;
  };
  dl_iterate_phdr(visit_object, &compared);
  EXPECT_GE(compared, 2);
}

} // namespace
} // namespace tenon
