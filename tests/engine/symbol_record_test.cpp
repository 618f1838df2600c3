// A record of a symbol is found by its name: by no other, however short, long or like it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "engine/symbol_record.h"
#include "engine/symbol_table.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <string>
#include <vector>

namespace tenon::engine {
namespace {

TEST(SymbolRecord, IsNamedByItsNameOnly) {
  for (std::size_t size = 0; size <= 70; ++size)
    for (const SymbolRecord::Form form : {SymbolRecord::Form::narrow, SymbolRecord::Form::wide}) {
      std::string name(size, 'a');
      for (std::size_t i = 0; i < size; ++i) name[i] = char('a' + i % 26);
      std::vector<std::uint64_t> memory(SymbolRecord::bytes(size, form) / 8);
      const SymbolRecord* record =
          SymbolRecord::make(reinterpret_cast<std::byte*>(memory.data()), name, hash_name(name), form);
      EXPECT_TRUE(record->is_named(name)) << size;
      EXPECT_FALSE(record->is_named(name + "x")) << size;
      EXPECT_FALSE(size != 0 && record->is_named(name.substr(1))) << size;
      for (std::size_t i = 0; i < size; ++i) {
        std::string other = name;
        other[i] = char(other[i] ^ 0x40);
        EXPECT_FALSE(record->is_named(other)) << size << ", " << i;
      }
    }
}

// As symbols of a COMDAT group do.
TEST(SymbolRecord, IsNamedByTheNameThatItShares) {
  const std::string name = "_ZN4list6insertEv";
  std::vector<std::uint64_t> memory((SymbolRecord::bytes(name.size(), SymbolRecord::Form::narrow) + 32) / 8);
  auto* at = reinterpret_cast<std::byte*>(memory.data());
  SymbolRecord* group = SymbolRecord::make(at, name, hash_name(name), SymbolRecord::Form::narrow);
  const SymbolRecord* symbol = SymbolRecord::make_sharing(at + group->bytes(), *group, nullptr);
  EXPECT_TRUE(symbol->is_named(name));
  EXPECT_FALSE(symbol->is_named("_ZN4list6insertEi"));
}

} // namespace
} // namespace tenon::engine
