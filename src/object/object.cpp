// The public face of an object file: picks the reader by the magic number and hands out views of what it made.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/check.h"
#include "base/guarded.h"
#include "object/compressed.h"
#include "object/elf_reader.h"
#include "object/file_kind.h"
#include "object/mapped_file.h"
#include "object/object_file.h"

namespace tenon {

Result<Object> Object::borrow(Bytes bytes, std::shared_ptr<const void> owner, std::string name) {
  return base::guarded([&]() -> Result<Object> {
    if (!object::has_elf_magic(bytes)) return object::not_an_object(bytes, name);
    auto file = object::read_elf(bytes, std::move(owner), std::move(name));
    if (!file) return std::move(file).error();
    return Object(*std::move(file));
  });
}

Result<Object> Object::copy(Bytes bytes, std::string name) {
  return base::guarded([&]() -> Result<Object> {
    if (!object::has_elf_magic(bytes)) return object::not_an_object(bytes, name);
    auto owned = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    const Bytes view(*owned);
    return borrow(view, std::move(owned), std::move(name));
  });
}

Result<Object> Object::read_file(const std::string& path) {
  return base::guarded([&]() -> Result<Object> {
    auto mapped = object::map_file(path);
    if (!mapped) return std::move(mapped).error();
    return borrow(mapped->bytes, std::move(mapped->owner), path);
  });
}

const std::string& Object::name() const noexcept { return file_->name; }
Bytes Object::bytes() const noexcept { return file_->bytes; }
Machine Object::machine() const noexcept { return file_->machine; }
std::span<const Section> Object::sections() const noexcept { return file_->sections; }
std::span<const Symbol> Object::symbols() const noexcept { return file_->symbols; }
std::uint32_t Object::first_global() const noexcept { return file_->first_global; }
std::span<const Group> Object::groups() const noexcept { return file_->groups; }

std::span<const Relocation> Object::relocations(std::uint32_t index) const noexcept {
  TENON_CHECK(index < file_->sections.size(), "relocations of a section that does not exist");
  const auto relocations = file_->relocations_in_place(index);
  if (!file_->sections[index].allocated && !object::relocations_in_range(relocations, file_->symbols.size())) return {};
  return relocations;
}

Result<void> Object::check_relocations(std::uint32_t index) const {
  TENON_CHECK(index < file_->sections.size(), "relocations of a section that does not exist");
  return base::guarded([&] { return object::check_relocations(*file_, index); });
}

Result<std::vector<std::byte>> Object::uncompressed(std::uint32_t index, std::uint64_t limit) const {
  TENON_CHECK(index < file_->sections.size(), "bytes of a section that does not exist");
  return base::guarded([&] { return object::uncompressed(*file_, index, limit); });
}

} // namespace tenon
